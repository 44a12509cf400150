"""The tree store as a rollout worker sees it: it finds trees that were collected before, and keeps finished ones."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import defaultdict

from leafe_verl.core import ExplorationTree
from leafe_verl.trees import Location, Provenance, TreeWriter, index, read_tree
from leafe_verl.trees.reader import Folder


class CollectedTrees:
    """The trees of one store. It is indexed once, and new trees go to a file of this process."""

    def __init__(self, store: Folder) -> None:
        self._writer, self._writing = TreeWriter(store), threading.Lock()
        self._of_step: dict[tuple[int | None, str], Location] = {}
        self._of_task: dict[str, list[Location]] = defaultdict(list)
        for key, location in index(store).items():
            self._of_step.setdefault((key.step, key.task_key), location)
            self._of_task[key.task_key].append(location)

    def find(self, step: int, task_key: str) -> ExplorationTree | None:
        """Return the tree that training step `step` collected for a task before this process began."""
        location = self._of_step.get((step, task_key))
        return None if location is None else _read(location)

    def of_task(self, task_key: str) -> list[ExplorationTree]:
        """Return all trees of a task, in the order of the store's files."""
        return [_read(location) for location in self._of_task.get(task_key, [])]

    def keep(self, tree: ExplorationTree, provenance: Provenance) -> None:
        """Write a finished tree and wait until it is on disk. Raises OSError that names the setting if that fails."""
        try:
            with self._writing:
                self._writer.append(tree, provenance)
        except OSError as error:
            raise OSError(
                f"the tree of task {tree.task.key!r} cannot be kept: {error}; leafe.collection.store names the folder"
            ) from error


def _read(location: Location) -> ExplorationTree:
    tree, provenance = read_tree(location)
    if not provenance.has_tokens:
        raise ValueError(
            f"{location}: stored without tokens, as evaluations are, which cannot be trained on; expected a store that "
            "training wrote: leafe.collection.store names it"
        )
    return tree


@functools.cache
def fingerprint(chat_template: str, vocabulary_size: int) -> str:
    """Return a short text that differs between tokenizers. Token ids are comparable if their fingerprints are equal."""
    return f"{vocabulary_size}-{hashlib.sha256(chat_template.encode()).hexdigest()[:12]}"
