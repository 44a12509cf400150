"""The experience store as a rollout worker sees it: what was collected before is found, what is finished is kept."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import defaultdict
from pathlib import Path

from leafe_verl.core import ExplorationTree
from leafe_verl.trees import Location, Provenance, TreeWriter, index, read_tree


class CollectedTrees:
    """The trees of one store. A worker indexes it when it first asks, and appends to a file of its own."""

    def __init__(self, store: Path) -> None:
        self._writer, self._writing = TreeWriter(store), threading.Lock()
        self._of_step: dict[tuple[int | None, str], Location] = {}
        self._of_task: dict[str, list[Location]] = defaultdict(list)
        for key, location in index(store).items():
            self._of_step.setdefault((key.step, key.task_key), location)
            self._of_task[key.task_key].append(location)

    def find(self, step: int, task_key: str) -> ExplorationTree | None:
        """Return the tree that training step `step` collected for a task before this process began."""
        location = self._of_step.get((step, task_key))
        return None if location is None else read_tree(location)[0]

    def of_task(self, task_key: str) -> list[ExplorationTree]:
        """Return all trees of a task, in the order of the store's files."""
        return [read_tree(location)[0] for location in self._of_task.get(task_key, [])]

    def keep(self, tree: ExplorationTree, provenance: Provenance) -> None:
        """Write a finished tree and wait until the disk has it. Raises OSError, with the setting, when it does not."""
        try:
            with self._writing:
                self._writer.append(tree, provenance)
        except OSError as error:
            raise OSError(
                f"the tree of task {tree.task.key!r} cannot be kept: {error}; leafe.collection.store names the folder"
            ) from error


@functools.cache
def fingerprint(chat_template: str, vocabulary_size: int) -> str:
    """What two tokenizers differ in, short: stores of one fingerprint hold token ids of one kind."""
    return f"{vocabulary_size}-{hashlib.sha256(chat_template.encode()).hexdigest()[:12]}"
