"""State that the agent loops of one rollout worker share: slots of environments and turns, stop signals, open stores.

The rollout worker owns one `WorkerState` and puts it on the client that verl hands to each loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from leafe_verl.evaluation.histories import DrawnHistory, read_histories
from leafe_verl.plugin.rollout.collected import CollectedTrees
from leafe_verl.trees import TreeWriter


class WorkerState:
    """State of one rollout worker's process.

    Slots and signals are used in the worker's event loop only; stores may be opened from several threads.
    """

    def __init__(self) -> None:
        self._slots: dict[int, asyncio.Semaphore] = {}
        self._turn_slots: dict[int, asyncio.Semaphore] = {}
        self._stop_signals: dict[int, asyncio.Event] = {}
        self._opening = threading.Lock()
        self._collected: dict[tuple[str, str, str], CollectedTrees] = {}
        self._writers: dict[str, TreeWriter] = {}
        self._histories: dict[str, dict[str, DrawnHistory]] = {}
        self.validated: set[str] = set()
        """The uids of the rows that are played for validation now."""
        self.sessions: dict[str, int] = {}
        """Number of attempts at each row that is played for validation now, by its uid."""
        self._unkept: dict[str, dict[int, Callable[[], None]]] = {}
        self.unscored: Counter[str] = Counter()
        """Counts of core.statistics over the unscored attempts of training since somebody took them: they give the
        trainer no row that could carry them."""

    def environment_slots(self, number: int) -> asyncio.Semaphore:
        """Return the semaphore that lets at most `number` environment calls run at the same time."""
        return self._slots.setdefault(number, asyncio.Semaphore(number))

    def turn_slots(self, number: int) -> asyncio.Semaphore:
        """Return the semaphore that lets at most `number` turns be sampled at the same time."""
        return self._turn_slots.setdefault(number, asyncio.Semaphore(number))

    def stop_signal(self, step: int) -> asyncio.Event:
        """Return the event that is set once training step `step` no longer waits for its trees."""
        return self._stop_signals.setdefault(step, asyncio.Event())

    def collected_trees(self, store: str, *, run: str, tokenizer: str) -> CollectedTrees:
        """Return this process's view of a store of trees; see `CollectedTrees`."""
        view = (store, run, tokenizer)
        with self._opening:
            if view not in self._collected:
                self._collected[view] = CollectedTrees(store, run=run, tokenizer=tokenizer)
            return self._collected[view]

    def tree_writer(self, store: str) -> TreeWriter:
        """Return the writer of this process's own file in the store of an evaluation."""
        with self._opening:
            if store not in self._writers:
                self._writers[store] = TreeWriter(store)
            return self._writers[store]

    def keep(self, uid: str, session: int, write: Callable[[], None]) -> None:
        """Call `write`, which keeps an attempt at a row of an evaluation, once all attempts at the row have ended.

        Those that end first have succeeded more often, since a failure plays on. If they were kept at once, an
        evaluation that is killed would keep them and play the others again.
        """
        unkept = self._unkept.setdefault(uid, {})
        unkept[session] = write
        if len(unkept) >= self.sessions.get(uid, 1):
            self.keep_row(uid)

    def keep_row(self, uid: str) -> None:
        """Keep the attempts at a row that have ended, in the order in which they began."""
        for _, write in sorted(self._unkept.pop(uid, {}).items()):
            write()

    def given_histories(self, folder: str) -> dict[str, DrawnHistory]:
        """Return the histories in a folder by their keys. The first caller reads them, and others wait for it."""
        with self._opening:
            if folder not in self._histories:
                self._histories[folder] = {drawn.history.key: drawn for drawn in read_histories(Path(folder))}
            return self._histories[folder]
