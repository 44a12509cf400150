"""Selects the most telling branches of exploration trees, small enough to be logged at every training step.

`telling_branch` selects one branch of a tree, and `most_telling` selects among those of a training step. Tracking logs
them as rows of a table, each with a picture of its tree (picture.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leafe_verl.core import Branch, ExplorationTree, Outcome
from leafe_verl.core.reflection import shorten
from leafe_verl.trees.picture import AttemptShape, Shape, build_shape

TEXT_CHARACTERS = 2000
"""Maximum number of characters of each text of a branch."""


@dataclass(frozen=True)
class TellingBranch:
    """A branching event: the failed action, the experience, the revised action, and how both attempts scored."""

    task_key: str
    attempt: int
    """Index of the attempt that was reflected on."""
    branch: int
    """Index of the attempt that the branch started."""
    step: int
    """Step that the branch rolled back to (tau), counted from 1."""
    experience: str
    parsed: bool
    """True if the model wrote the experience, False if it is the fallback's."""
    failed_action: str
    revised_action: str
    before: float
    """Best return of the attempt that was reflected on."""
    after: float
    """Best return of the branch."""
    improved: bool
    shape: Shape
    """Shape of the tree."""

    def as_mapping(self) -> dict[str, Any]:
        """Return plain values, which any queue can carry."""
        return {**dataclasses.asdict(self), "shape": [list(attempt) for attempt in self.shape]}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TellingBranch:
        """Return the branch that `as_mapping` was called on."""
        return cls(**{**values, "shape": [AttemptShape(*attempt) for attempt in values["shape"]]})

    @property
    def rank(self) -> tuple[bool, float, bool, bool]:
        """Sort key: whether it improved, by how much, no root solved the task, the model wrote the experience."""
        roots = [attempt for attempt in self.shape if attempt.parent is None]
        unsolved = all(attempt.outcome != Outcome.SUCCESS.value for attempt in roots)
        return self.improved, self.after - self.before, unsolved, self.parsed


def telling_branch(tree: ExplorationTree) -> TellingBranch | None:
    """Return the tree's most telling branch; None if no scored branch took a step."""
    taken = [
        _build_branch(tree, index, branch)
        for index, branch in tree.branches()
        if tree.attempts[index].outcome.scored and tree.attempts[index].steps
    ]
    return max(taken, key=lambda branch: branch.rank, default=None)


def most_telling(branches: Iterable[TellingBranch], number: int) -> Sequence[TellingBranch]:
    """Return the `number` most telling branches, best first."""
    # Trees finish in any order. The choice among equals must not depend on it.
    ordered = sorted(branches, key=lambda branch: branch.task_key)
    return sorted(ordered, key=lambda branch: branch.rank, reverse=True)[:number]


def _build_branch(tree: ExplorationTree, index: int, branch: Branch) -> TellingBranch:
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
        shape=build_shape(tree),
    )
