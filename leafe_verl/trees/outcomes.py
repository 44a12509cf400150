"""Reads how often each task was solved of late, from the summary columns of a store."""

from __future__ import annotations

import heapq
from datetime import UTC, datetime

from leafe_verl.core.curriculum import TaskOutcomes
from leafe_verl.trees.reader import Folder, read_chosen

COLUMNS = ("run", "step", "task_key", "collected_at", "num_scored", "num_solved")
LONG_AGO = datetime.min.replace(tzinfo=UTC)


def read_outcomes(store: Folder, *, run: str, before: int, latest: int) -> dict[str, TaskOutcomes]:
    """Return task key -> the outcomes of the attempts in its `latest` newest trees.

    Of the trees of `run`, those of training steps below `before` count, so that a run that goes on from a checkpoint
    reads the same as it did when it came there first. What a run has given up does not count, and neither do trees of
    earlier versions, which do not say how many attempts succeeded. Those of other runs all count.
    """
    newest: dict[str, list[tuple[datetime, int, int]]] = {}
    for _, row in read_chosen(store, COLUMNS):
        own_later = row["run"] == run and row["step"] is not None and row["step"] >= before
        if own_later or row["num_scored"] is None:
            continue
        trees = newest.setdefault(row["task_key"], [])
        heapq.heappush(trees, (row["collected_at"] or LONG_AGO, row["num_scored"], row["num_solved"]))
        if len(trees) > latest:
            heapq.heappop(trees)
    return {
        key: TaskOutcomes(sum(scored for _, scored, _ in trees), sum(solved for *_, solved in trees))
        for key, trees in newest.items()
    }
