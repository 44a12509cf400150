"""Environments that wrap another package's simulator, which runs in a worker process.

environment ──lease──► pool ──► process: a fresh interpreter with one simulator (simulator_worker.py)

A process serves one attempt at a time and keeps that attempt's state between calls. When there are more attempts than
processes, an attempt that is between two calls gives its process to another one, and later returns to its own state by
replaying its actions; every observation is checked. No attempt ever waits for another one to end. Waiting could
deadlock, because core limits how many environment calls run at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from leafe_verl.core.environment import EnvironmentFailure, ReplayEnvironment, ReplaySnapshot, Step
from leafe_verl.core.task import Task
from leafe_verl.environments.options import SETTING
from leafe_verl.environments.simulator_process import SimulatorLimits, SimulatorProcess, SimulatorProgram
from leafe_verl.processes import PoolRegistry

logger = logging.getLogger(__name__)


class PooledProcess(Protocol):
    """What a pool needs of a process, or of several that serve one attempt together."""

    def wait_until_ready(self) -> None:
        """Wait until calls can be made. Raises EnvironmentFailure."""

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of what runs there. Raises EnvironmentFailure, after which the process must be closed."""

    def has_ended(self) -> bool:
        """Return whether it has died between two calls."""

    def vacate(self) -> None:
        """Give up the state of an attempt that is over. Does not block."""

    def kill(self) -> None:
        """End it; a running call fails. Does not block, and any thread may call it."""

    def close(self) -> None:
        """End it and release its resources. Must not be called while a call is running."""


class Program(Protocol):
    """What a process runs, as far as messages tell it."""

    @property
    def simulator(self) -> str: ...


class Limits(Protocol):
    """The limit that a pool keeps; the others are for its processes."""

    @property
    def wait_seconds(self) -> float: ...


class Lease:
    """An attempt's claim on a process. The pool may lend the process to another attempt between two calls."""

    def __init__(self) -> None:
        self.steps = 0
        """Steps taken so far, which must be replayed if another attempt has had the process in between."""
        self.closed = False


@dataclass(eq=False)
class _Place:
    """Room for one process."""

    process: PooledProcess | None = None
    """None until it has been started."""
    lease: Lease | None = None
    """The attempt whose state the process holds; None if it holds nobody's."""
    busy: bool = False
    """A call is running in the process."""


class SimulatorPool:
    """Up to `size` processes that run the same program. They start on demand and are replaced when they break."""

    def __init__(
        self, program: Program, limits: Limits, size: int, process: Callable[..., PooledProcess] = SimulatorProcess
    ) -> None:
        """`process` is called with the program and the limits, and starts a process."""
        self.size = size
        self.counts: Counter[str] = Counter()
        """Processes `started`; `lost`, which were killed or died; `taken`, from an attempt that then must replay."""
        self._program, self._limits, self._new_process = program, limits, process
        self._start_afresh()
        _pools.add(self)

    def _start_afresh(self) -> None:
        # The condition's lock is reentrant: a finalizer may release a lease wherever this thread allocates memory.
        self._changed = threading.Condition()
        self._places: list[_Place] = []
        self._closed = False

    @contextlib.contextmanager
    def lent(self, lease: Lease) -> Iterator[tuple[PooledProcess, bool]]:
        """Yield a process for calls of `lease`, and whether the process still holds that attempt's state.

        Raises EnvironmentFailure if no process becomes free, or starts, in time. An exception inside the `with` block
        ends the process.
        """
        place, kept = self._take(lease)
        try:
            if place.process is not None and not kept and place.process.has_ended():
                self.counts["lost"] += 1
                place.process.close()
                place.process = None
            if place.process is None:
                place.process = self._new_process(self._program, self._limits)
                self.counts["started"] += 1
                place.process.wait_until_ready()
            yield place.process, kept
        except BaseException:
            self._discard(place)
            raise
        self._put_back(place)

    def release(self, lease: Lease) -> None:
        """Give up a claim. If one of its calls is running, kill the process."""
        with self._changed:
            lease.closed = True
            for place in self._places:
                if place.lease is lease and place.busy and place.process is not None:
                    place.process.kill()
                elif place.lease is lease and not place.busy:
                    self._vacate(place)
            self._changed.notify_all()

    def close(self) -> None:
        """End every process; running calls fail. May be called twice."""
        with self._changed:
            self._closed = True
            idle = [place for place in self._places if not place.busy]
            for place in self._places:
                if place.process is not None:
                    place.process.kill()
            self._changed.notify_all()
        for place in idle:
            self._remove(place)

    def forget(self) -> None:
        """In a forked copy of this process: leave the processes to the original and start with none."""
        self._start_afresh()

    def processes(self) -> list[int]:
        """Return the process ids of the running simulators."""
        with self._changed:
            return [each.process.pid for each in self._places if isinstance(each.process, SimulatorProcess)]

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
        """Return a place for a call, or None if all are busy.

        The order of preference: the attempt's own process, a process without a claim, a new process, and last the
        process of the attempt that has the fewest steps to replay.
        """
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
                "More attempts than %d %s processes: evicted attempts must replay their steps. "
                "Raise %s.processes if memory allows.", self.size, self._program.simulator, SETTING
            )  # fmt: skip

    def _put_back(self, place: _Place) -> None:
        with self._changed:
            place.busy = False
            if place.lease is None or place.lease.closed:
                self._vacate(place)
            closed = self._closed
            self._changed.notify_all()
        if closed:
            self._remove(place)

    def _vacate(self, place: _Place) -> None:
        place.lease = None
        if place.process is not None:
            place.process.vacate()

    def _discard(self, place: _Place) -> None:
        self.counts["lost"] += 1
        self._remove(place)

    def _remove(self, place: _Place) -> None:
        # End the process before its place becomes free: until then it uses the memory that its successor needs.
        if place.process is not None:
            place.process.close()
        with self._changed:
            with contextlib.suppress(ValueError):
                self._places.remove(place)
            self._changed.notify_all()


_pools: PoolRegistry[SimulatorPool] = PoolRegistry()


def processes_lost() -> int:
    """Return how many processes all pools of this process have lost so far."""
    return sum(pool.counts["lost"] for pool in _pools)


@functools.cache
def shared_pool(program: SimulatorProgram, limits: SimulatorLimits, processes: int | None) -> SimulatorPool:
    """Return the pool that everything in this process shares.

    `processes`: the size of the pool; None for one process per processor.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"{SETTING}.processes is {processes!r}; expected at least 1, or null for one per processor")
    return SimulatorPool(program, limits, processes or len(os.sched_getaffinity(0)))


def pool_from_options(
    program: SimulatorProgram, missing: str | None, processes: int | None, limits: Mapping[str, Any]
) -> SimulatorPool:
    """Return the shared pool for an environment's options: `processes`, and `limits`, the fields of `SimulatorLimits`.

    `missing`: what is not installed, and the command that installs it; None if all is there. Raises RuntimeError with
    that text, and ValueError for an unknown option or a value that is out of range.
    """
    known = [each.name for each in dataclasses.fields(SimulatorLimits)]
    if unknown := sorted(limits.keys() - set(known)):
        raise ValueError(f"unknown {SETTING}.{', '.join(unknown)}; the options of its processes are {', '.join(known)}")
    checked = SimulatorLimits(**limits)
    if missing:
        raise RuntimeError(missing)
    return shared_pool(program, checked, processes)


class SimulatorEnvironment(ReplayEnvironment):
    """Base class of environments whose simulator runs in a process.

    A subclass writes `start` and `advance`, which reach the simulator by `call`.
    """

    def __init__(self, pool: SimulatorPool) -> None:
        self._pool = pool
        self._process: PooledProcess | None = None
        self._claim()

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the simulator. Works inside `start`, `advance` and `with self.borrowed()`."""
        if self._process is None:
            raise RuntimeError("no process is borrowed; expected a call within `with self.borrowed()`")
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
        """Hold a process for the `with` block; yields whether the process is in this attempt's state.

        A nested block uses the process of the outer one.
        """
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
        # The finalizer runs once: by `close`, or when the environment is garbage-collected without being closed.
        self._release = weakref.finalize(self, self._pool.release, self._lease)
