"""What one tree has to tell, small enough to be logged at every training step: its most telling branch, and its shape.

A tree gives a branch, a step's trees give the most telling ones: rows of a table, with pictures (shape.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leafe_verl.core import Branch, ExplorationTree, Outcome
from leafe_verl.core.reflection import shorten
from leafe_verl.trees.picture import AttemptShape, Shape, shape_of

TEXT_CHARACTERS = 2000
"""Of each text of a branch."""


@dataclass(frozen=True)
class TellingBranch:
    """One branching event: what the agent blamed, what it wrote to itself, what it did instead, what came of it."""

    task_key: str
    attempt: int
    """The attempt that was reflected upon."""
    branch: int
    """The attempt that came of it."""
    step: int
    """The step that was blamed, from 1."""
    experience: str
    parsed: bool
    """Whether the experience is the model's own; False: the fallback's."""
    failed_action: str
    revised_action: str
    before: float
    """Best return of the attempt that was reflected upon."""
    after: float
    """Best return of the branch."""
    improved: bool
    shape: Shape
    """Of its tree."""

    def as_mapping(self) -> dict[str, Any]:
        """As plain values, which survive any queue."""
        return {**dataclasses.asdict(self), "shape": [list(attempt) for attempt in self.shape]}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TellingBranch:
        return cls(**{**values, "shape": [AttemptShape(*attempt) for attempt in values["shape"]]})

    @property
    def rank(self) -> tuple[bool, float, bool, bool]:
        """A higher one tells more: what improved, by how much; a task that no root solved; the model's own words."""
        roots = [attempt for attempt in self.shape if attempt.parent is None]
        unsolved = all(attempt.outcome != Outcome.SUCCESS.value for attempt in roots)
        return self.improved, self.after - self.before, unsolved, self.parsed


def telling_branch(tree: ExplorationTree) -> TellingBranch | None:
    """Return the tree's most telling branch; None where no branch took a step and was scored."""
    taken = [
        _told(tree, index, branch)
        for index, branch in tree.branches()
        if tree.attempts[index].outcome.scored and tree.attempts[index].steps
    ]
    return max(taken, key=lambda told: told.rank, default=None)


def most_telling(branches: Iterable[TellingBranch], number: int) -> Sequence[TellingBranch]:
    """Return so many of the branches, the most telling first."""
    # Trees finish in any order, on which the choice among equals must not depend.
    ordered = sorted(branches, key=lambda told: told.task_key)
    return sorted(ordered, key=lambda told: told.rank, reverse=True)[:number]


def _told(tree: ExplorationTree, index: int, branch: Branch) -> TellingBranch:
    return TellingBranch(
        task_key=shorten(tree.task.key, TEXT_CHARACTERS),
        attempt=branch.parent,
        branch=index,
        step=branch.step,
        experience=shorten(branch.reflection.experience, TEXT_CHARACTERS),
        parsed=branch.reflection.parsed,
        failed_action=shorten(tree.path(branch.parent)[branch.step - 1].action.text, TEXT_CHARACTERS),
        revised_action=shorten(tree.attempts[index].steps[0].action.text, TEXT_CHARACTERS),
        before=tree.best_return(branch.parent),
        after=tree.best_return(index),
        improved=tree.improved(index),
        shape=shape_of(tree),
    )
