"""Reads what an evaluation collected, from the summary columns of its trees.

The folder of an evaluation holds `evaluation.json` (manifest.py) and a tree store (leafe_verl/trees) without tokens. A
plain attempt is a tree of one attempt. Unscored attempts are stored too: they are neither right nor wrong, and are
tried again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from leafe_verl.core.recovery_figures import PlainAttempt, recovery_by_task
from leafe_verl.core.statistics import total
from leafe_verl.trees import read_rows
from leafe_verl.trees.text import unescape


@dataclass(frozen=True)
class EvaluatedTree:
    """The figures of one finished tree."""

    task_key: str
    solved: bool
    """Whether an attempt ended in success."""
    counts: Mapping[str, int]
    """Counts of core.statistics."""
    plain_attempts: tuple[PlainAttempt, ...] | None
    """The scored roots, for the figures of recovery; None if an earlier version wrote the tree."""
    history_key: str | None = None
    """Name of the given history that it goes on from; None if it begins at the task's start."""

    @property
    def start(self) -> str:
        """What it begins at: the key of its given history, or of its task."""
        return self.history_key or self.task_key

    @property
    def scored(self) -> bool:
        """Whether any attempt says something about the policy."""
        return self.counts["attempts_scored"] > 0


def read_evaluation(store: str | os.PathLike[str]) -> list[EvaluatedTree]:
    """Read the figures of every finished tree, in the order of the file names and of writing.

    Trees that a killed process left incomplete are skipped with a warning. Raises ValueError for a file that cannot be
    read, and for trees that no evaluation wrote.
    """
    trees = []
    for location, row in read_rows(store, ("task_key", "solved", "counts", "plain_attempts", "history_key")):
        if row["counts"] is None:
            raise ValueError(f"{location}: a tree without counts; expected those that leafe-verl evaluate writes")
        found, counts = row["plain_attempts"], json.loads(row["counts"])
        plain = None if found is None else tuple(map(PlainAttempt.from_mapping, found))
        trees.append(EvaluatedTree(unescape(row["task_key"]), row["solved"], counts, plain, row["history_key"]))
    return trees


def successes_by_task(trees: Iterable[EvaluatedTree]) -> dict[str, list[bool]]:
    """Return task key -> whether each of its scored trees holds a success."""
    successes: dict[str, list[bool]] = {}
    for tree in trees:
        if tree.scored:
            successes.setdefault(tree.task_key, []).append(tree.solved)
    return successes


def recovery_counts(trees: Iterable[EvaluatedTree]) -> dict[str, dict[str, float]]:
    """Return task key -> the counts of core.recovery_figures, without trees of earlier versions."""
    return recovery_by_task((tree.task_key, tree.plain_attempts or ()) for tree in trees)


def missing_attempts(trees: Iterable[EvaluatedTree], keys: Iterable[str], attempts: int) -> dict[str, int]:
    """Return key -> number of scored trees still missing of `attempts`, in the order of `keys`.

    The keys are those of tasks, or of given histories. Those with enough scored trees are left out.
    """
    present = Counter(tree.start for tree in trees if tree.scored)
    return {key: attempts - present[key] for key in keys if present[key] < attempts}


def total_counts(trees: Iterable[EvaluatedTree]) -> dict[str, int]:
    """Return the counts of all trees together. Unscored trees are included, since they cost as much."""
    return total(tree.counts for tree in trees)
