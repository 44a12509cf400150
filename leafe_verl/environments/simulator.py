"""Environments of other packages, each in a process of its own that attempts borrow.

attempt ──lease──► pool ──► process: a fresh interpreter with one simulator (simulator_worker.py)

A process serves one attempt at a time and keeps its state between two calls. Where more attempts are under way than
there are processes, an attempt that is not in a call lends its process to the next, and comes back to its own state by
replay, every observation checked. So no attempt waits for another one to end, which under core's bound on environment
calls at once would be a deadlock.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import logging
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from leafe_verl.core.environment import EnvironmentFailure, ReplayEnvironment, ReplaySnapshot, Step
from leafe_verl.core.task import Task
from leafe_verl.environments.simulator_process import (
    SETTING,
    SimulatorLimits,
    SimulatorProcess,
    SimulatorProgram,
    launcher,
)

logger = logging.getLogger(__name__)


class Lease:
    """An attempt's claim on a process, which others may use between its calls where they must."""

    def __init__(self) -> None:
        self.steps = 0
        """Taken so far: what it costs to come back after another attempt has had the process."""
        self.closed = False


@dataclass(eq=False)
class _Place:
    """Room for one process."""

    process: SimulatorProcess | None = None
    """None until it has been started."""
    lease: Lease | None = None
    """Whose state the process holds."""
    busy: bool = False


class SimulatorPool:
    """At most `size` processes of one program, started when first needed and replaced when they break."""

    def __init__(self, program: SimulatorProgram, limits: SimulatorLimits, size: int) -> None:
        self.size = size
        self.counts: Counter[str] = Counter()
        """`started`; `lost`: killed or dead; `taken`: lent to another attempt, whose owner must replay."""
        self._program, self._limits = program, limits
        self._start_afresh()
        _pools.add(self)

    def _start_afresh(self) -> None:
        # Its lock is reentrant: a finalizer may release a lease wherever this thread allocates memory.
        self._changed = threading.Condition()
        self._places: list[_Place] = []
        self._closed = False

    @contextlib.contextmanager
    def lent(self, lease: Lease) -> Iterator[tuple[SimulatorProcess, bool]]:
        """Yield a process for calls of `lease`, and whether it still holds that attempt's state.

        Raises EnvironmentFailure when none is free or starts in time. An exception within ends the process.
        """
        place, kept = self._take(lease)
        try:
            if place.process is not None and not kept and place.process.has_ended():
                self.counts["lost"] += 1
                place.process.close()
                place.process = None
            if place.process is None:
                place.process = SimulatorProcess(self._program, self._limits)
                self.counts["started"] += 1
                place.process.wait_until_ready()
            yield place.process, kept
        except BaseException:
            self._discard(place)
            raise
        self._put_back(place)

    def release(self, lease: Lease) -> None:
        """Give up a claim. A call that is still under way is ended, with its process."""
        with self._changed:
            lease.closed = True
            for place in self._places:
                if place.lease is lease and place.busy and place.process is not None:
                    place.process.kill()
                elif place.lease is lease and not place.busy:
                    place.lease = None
            self._changed.notify_all()

    def close(self) -> None:
        """End every process; calls under way fail. May be called twice."""
        with self._changed:
            self._closed = True
            idle = [place for place in self._places if not place.busy]
            for place in self._places:
                if place.busy and place.process is not None:
                    place.process.kill()
            self._changed.notify_all()
        for place in idle:
            self._remove(place)

    def processes(self) -> list[int]:
        """Return the numbers of the processes that there are."""
        with self._changed:
            return [place.process.pid for place in self._places if place.process is not None]

    def _take(self, lease: Lease) -> tuple[_Place, bool]:
        seconds = self._limits.wait_seconds
        deadline = time.monotonic() + seconds
        with self._changed:
            while (place := self._choose(lease)) is None:
                if not self._changed.wait(deadline - time.monotonic()):
                    raise EnvironmentFailure(
                        f"{self._program.simulator}: all {self.size} processes were in calls for {seconds:g} s; "
                        f"{SETTING}.processes and .wait_seconds set the limits, and leafe.environment.concurrency "
                        "how many calls there are at once"
                    )
            kept = place.lease is lease
            if place.lease is not None and not kept:
                self._note_taken()
            place.lease, place.busy = lease, True
            return place, kept

    def _choose(self, lease: Lease) -> _Place | None:
        """Its own process, else one that nobody claims, else a new one, else the one that is replayed the soonest."""
        if lease.closed or self._closed:
            raise EnvironmentFailure(f"{self._program.simulator}: a call came after close")
        free = [place for place in self._places if not place.busy]
        for wanted in (lease, None):
            if found := next((place for place in free if place.lease is wanted), None):
                return found
        if len(self._places) < self.size:
            self._places.append(_Place())
            return self._places[-1]
        return min(free, key=lambda place: place.lease.steps if place.lease else 0, default=None)

    def _note_taken(self) -> None:
        self.counts["taken"] += 1
        if self.counts["taken"] == 1:
            logger.warning(
                "more attempts than %d processes of %s: each one that another attempt takes is replayed; "
                "%s.processes=N, where the memory is, spares that", self.size, self._program.simulator, SETTING
            )  # fmt: skip

    def _put_back(self, place: _Place) -> None:
        with self._changed:
            place.busy = False
            if place.lease is None or place.lease.closed:
                place.lease = None
            closed = self._closed
            self._changed.notify_all()
        if closed:
            self._remove(place)

    def _discard(self, place: _Place) -> None:
        self.counts["lost"] += 1
        self._remove(place)

    def _remove(self, place: _Place) -> None:
        # Its end comes first: until then it uses the memory of the one that takes its place.
        if place.process is not None:
            place.process.close()
        with self._changed:
            with contextlib.suppress(ValueError):
                self._places.remove(place)
            self._changed.notify_all()


_pools: weakref.WeakSet[SimulatorPool] = weakref.WeakSet()


def processes_lost() -> int:
    """Return how many processes all pools of this process have lost so far."""
    return sum(pool.counts["lost"] for pool in list(_pools))


def _close_all() -> None:
    for pool in list(_pools):
        pool.close()


def _forget_all() -> None:
    """In a forked copy of this process: the processes are its parent's."""
    launcher.cache_clear()
    for pool in list(_pools):
        pool._start_afresh()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)


@functools.cache
def shared_pool(program: SimulatorProgram, limits: SimulatorLimits, processes: int | None) -> SimulatorPool:
    """Return the pool that everything in this process shares. `processes`: None, one for each processor."""
    if processes is not None and processes < 1:
        raise ValueError(f"{SETTING}.processes is {processes!r}; expected at least 1, or null: one a processor")
    return SimulatorPool(program, limits, processes or len(os.sched_getaffinity(0)))


def pool_from_options(
    program: SimulatorProgram, missing: str | None, processes: int | None, limits: Mapping[str, float]
) -> SimulatorPool:
    """Return the shared pool that an environment's options ask for: `processes`, and the fields of `SimulatorLimits`.

    `missing`: what is not installed, with the command that mends it; raised as a RuntimeError. Raises ValueError for an
    option that there is not, or with a value that it cannot have.
    """
    known = [each.name for each in dataclasses.fields(SimulatorLimits)]
    if unknown := sorted(limits.keys() - set(known)):
        raise ValueError(f"unknown {SETTING}.{', '.join(unknown)}; of its processes there are {', '.join(known)}")
    made = SimulatorLimits(**limits)  # type: ignore[arg-type]
    if missing:
        raise RuntimeError(missing)
    return shared_pool(program, made, processes)


class SimulatorEnvironment(ReplayEnvironment):
    """Base class: `start` and `advance` make their calls by `call`, which leads to a simulator in a process."""

    def __init__(self, pool: SimulatorPool) -> None:
        self._pool = pool
        self._process: SimulatorProcess | None = None
        self._claim()

    def call(self, method: str, *arguments: Any) -> Any:
        """Call the simulator; within `start`, `advance` and what overrides `restore`."""
        if self._process is None:
            raise RuntimeError("no process is borrowed; expected within `with self.borrowed()`")
        return self._process.call(method, *arguments)

    def reset(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        with self.borrowed():
            return super().reset(task, seed)

    def step(self, action: str) -> Step:
        with self.borrowed() as kept:
            if not kept:
                self.restore(self.snapshot())
            step = super().step(action)
            self._lease.steps = len(self._record.actions)
            return step

    def restore(self, snapshot: ReplaySnapshot) -> int:
        with self.borrowed():
            return super().restore(snapshot)

    def close(self) -> None:
        self._release()

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[bool]:
        """Hold a process; yields whether it is in this attempt's state. Within another one, that one's."""
        if self._process is not None:
            yield True
            return
        if self._lease.closed:
            self._claim()
        with self._pool.lent(self._lease) as (process, kept):
            self._process = process
            try:
                yield kept
            finally:
                self._process = None

    def _claim(self) -> None:
        self._lease = Lease()
        # Runs once: by close, or when an environment that nobody closed is no more.
        self._release = weakref.finalize(self, self._pool.release, self._lease)
