"""A rollout worker's view of the store of trees: it finds trees collected earlier and keeps those it finishes."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from leafe_verl.core import ExplorationTree
from leafe_verl.trees import Location, Provenance, TreeWriter, read_tree
from leafe_verl.trees.reader import SCORED, Folder, earliest, read_standing
from leafe_verl.trees.rows import Row


class CollectedTrees:
    """The trees of one store, as one run sees them. Finished trees go to a file of this process.

    A run goes on with the trees that it has collected itself. Those of another run are of another policy, which stage 2
    alone takes. No tree of another tokenizer is taken.

    The store is indexed when a tree is first looked for: for a training step, the trees of that step and of later ones,
    so that a resumed run's memory does not grow with what it has collected before.
    """

    def __init__(self, store: Folder, *, run: str, tokenizer: str) -> None:
        """`run` and `tokenizer` are those of `Provenance`: what this run writes into its trees."""
        self._run, self._tokenizer = run, tokenizer
        self._folder, self._reading = store, threading.Lock()
        self._writer, self._write_lock = TreeWriter(store), threading.Lock()
        self._by_step: dict[tuple[int, str], Location] = {}
        self._first_step: int | None = None
        """First step whose trees are in `_by_step`; None before they are looked for."""
        self._by_task: dict[str, list[Location]] | None = None

    def find(self, step: int, task_key: str) -> ExplorationTree | None:
        """Return the tree that this run's step `step` collected for a task before this process began, if any."""
        with self._reading:
            if self._first_step is None or step < self._first_step:
                self._first_step, self._by_step = step, index_steps(self._folder, self._run, step)
            location = self._by_step.get((step, task_key))
        return None if location is None else self._read(location)

    def find_all(self, task_key: str) -> list[ExplorationTree]:
        """Return all trees of a task, of whichever run, in the order of the store's files."""
        with self._reading:
            if self._by_task is None:
                self._by_task = defaultdict(list)
                for key, location in earliest(_scored(self._folder)).items():
                    self._by_task[key.task_key].append(location)
            locations = self._by_task.get(task_key, [])
        return [self._read(location) for location in locations]

    def _read(self, location: Location) -> ExplorationTree:
        tree, provenance = read_tree(location)
        if not provenance.has_tokens:
            raise ValueError(
                f"{location}: stored without tokens, as evaluations are, which cannot be trained on; expected a store "
                "that training wrote: leafe.collection.store names it"
            )
        if provenance.tokenizer not in (None, self._tokenizer):  # None: a store of an earlier version does not say
            raise ValueError(describe_foreign(location, provenance.tokenizer, provenance.model, self._tokenizer))
        return tree

    def keep(self, tree: ExplorationTree, provenance: Provenance) -> None:
        """Write a finished tree and return once it is on the disk.

        Raises OSError, which names the setting of the folder, if it cannot be written.
        """
        try:
            with self._write_lock:
                self._writer.append(tree, provenance)
        except OSError as error:
            raise OSError(
                f"the tree of task {tree.task.key!r} cannot be kept: {error}; leafe.collection.store names the folder"
            ) from error


def index_steps(store: Folder, run: str, first: int) -> dict[tuple[int, str], Location]:
    """Return step and task key -> where the tree is that a run's step `first` or a later one has collected.

    Those that the run has given up since are left out, and those without a scored attempt, as an outage leaves them.
    """
    rows = (each for each in _scored(store) if each[1]["run"] == run and (each[1]["step"] or 0) >= first)
    found: dict[tuple[int, str], Location] = {}
    for key, location in earliest(rows).items():
        found.setdefault((key.step or 0, key.task_key), location)
    return found


def _scored(store: Folder) -> Iterator[tuple[Location, Row]]:
    """Yield the trees with a scored attempt that their runs have not given up since."""
    for location, row in read_standing(store):
        if row[SCORED] != 0:
            yield location, row


def describe_foreign(what: object, there: str | None, model: str | None, here: str) -> str:
    """Say that a tree holds the tokens of another tokenizer than this run's, and what to do."""
    return (
        f"{what}: collected with the tokenizer {there}, that of the model {model}; expected {here}, this run's, since "
        "token ids are trained on as they are stored (the number of tokens and a hash of the chat template name a "
        "tokenizer). Set MODEL (actor_rollout_ref.model.path) to a model with that tokenizer, or name another folder "
        "in leafe.collection.store"
    )


def find_fingerprint(tokenizer: Any) -> str:
    """Return the fingerprint of a loaded tokenizer, as `Provenance.tokenizer` has it."""
    return fingerprint(str(tokenizer.chat_template), len(tokenizer))


@functools.cache
def fingerprint(chat_template: str, vocabulary_size: int) -> str:
    """Return a short string that differs between tokenizers whose token ids must not be mixed in one store."""
    return f"{vocabulary_size}-{hashlib.sha256(chat_template.encode()).hexdigest()[:12]}"
