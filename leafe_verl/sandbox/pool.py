"""The sandbox that all threads and event loops of a process share: a queue of runs for a few zygotes."""

from __future__ import annotations

import functools
import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from leafe_verl.processes import PoolRegistry
from leafe_verl.sandbox.answers import KILLED_WITH_SANDBOX, parse_calls, parse_program
from leafe_verl.sandbox.protocol import LOST, Files, Limits, ProgramResult, RunResult
from leafe_verl.sandbox.tier_choice import choose_tier
from leafe_verl.sandbox.tiers import TIERS, Tier
from leafe_verl.sandbox.worker import CANCELLED, Ending, Job, Worker, WorkerLost

logger = logging.getLogger(__name__)
T = TypeVar("T")
BUBBLEWRAP = ("auto", "on", "off")


@dataclass(frozen=True)
class _Task(Generic[T]):
    """A run whose result somebody waits for."""

    job: Job
    parse: Callable[[Job, Ending], T]
    future: Future[T]


class SandboxPool:
    """Runs each program in a process of its own, forked from a small interpreter (a zygote) that holds nothing else.

    A program can compute and import the standard library, and nothing more: it gets no environment variables, no
    installed packages, no file that it could write and no other process. Runs wait in one queue, first come first
    served, for one of `workers` zygotes. Each zygote is served by one thread of this process. Nothing starts before the
    first run. A forked copy of this process may use the pool, too: it starts zygotes of its own.

    If a zygote is lost, its run is repeated once, which is safe because a run has no effect but its answer. A program
    that loses two zygotes counts as failed ("killed"). If it went unscored instead, a policy could choose that outcome
    for its failures.
    """

    def __init__(
        self,
        workers: int | None = None,
        tier: int | None = None,
        bubblewrap: str = "auto",
        allow_unconfined: bool = False,
        with_folder: bool = False,
    ) -> None:
        """`workers`: runs at a time; by default one for each processor that this process may use.

        `tier`: the number of one of TIERS; by default the firmest tier that works here. `bubblewrap`: "auto" uses it
        where it works, "on" requires it, "off" does not use it. `allow_unconfined`: run programs even if no tier works.
        `with_folder`: take runs that have a folder of their own, in which they can write.
        """
        if workers is not None and workers < 1:
            raise ValueError(f"workers is {workers!r}; expected at least 1, or None for one for each processor")
        if bubblewrap not in BUBBLEWRAP:
            raise ValueError(f"bubblewrap is {bubblewrap!r}; expected one of {', '.join(BUBBLEWRAP)}")
        numbers = [each.number for each in TIERS]
        if tier is not None and tier not in numbers:
            raise ValueError(f"tier is {tier!r}; expected one of {numbers}, or None for the firmest that works here")
        self.workers = workers or len(os.sched_getaffinity(0))
        self.lost = 0
        """Zygotes that died or did not answer, and were replaced."""
        self._choose = functools.partial(choose_tier, tier, bubblewrap, allow_unconfined, with_folder)
        self._with_folder = with_folder
        self._start_afresh()
        _pools.add(self)

    def _start_afresh(self) -> None:
        self._closed = False
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Task[Any] | None] = queue.SimpleQueue()
        self._slots: list[_Slot] = []
        self._unfinished: set[Future[Any]] = set()

    def call(
        self,
        code: str,
        setup: str,
        calls: Sequence[str],
        limits: Limits = Limits(),  # noqa: B008 - frozen
        files: Files | None = None,
    ) -> Future[RunResult]:
        """See `Sandbox.call`."""
        return self._submit(Job(code, limits, setup, tuple(calls), files=files), parse_calls)

    def execute(
        self,
        code: str,
        stdin: str,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        files: Files | None = None,
    ) -> Future[ProgramResult]:
        """See `Sandbox.execute`."""
        return self._submit(Job(code, limits, stdin=stdin, files=files), parse_program)

    def _submit(self, job: Job, parse: Callable[[Job, Ending], T]) -> Future[T]:
        if job.files is not None and not self._with_folder:
            raise ValueError("this sandbox's runs have no folder; expected one that was made with with_folder=True")
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the sandbox is closed")
            self._unfinished.add(future)
            self._queue.put(_Task(job, parse, future))
            if len(self._slots) < min(self.workers, len(self._unfinished)):
                self._slots.append(_Slot(self._choose, self._with_folder, self._queue, self._note_loss))
        future.add_done_callback(self._unfinished.discard)
        return future

    def _note_loss(self) -> None:
        with self._lock:
            self.lost += 1

    def close(self) -> None:
        """See `Sandbox.close`."""
        with self._lock:
            self._closed = True
            slots, self._slots = self._slots, []
            unfinished = list(self._unfinished)
        for future in unfinished:
            future.cancel()
        for _ in slots:
            self._queue.put(None)
        for slot in slots:
            slot.thread.join()

    def __enter__(self) -> SandboxPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def forget(self) -> None:
        """Begin anew in a forked copy of this process, which has none of the pool's threads."""
        for slot in self._slots:
            slot.forget()
        self._start_afresh()


_pools: PoolRegistry[SandboxPool] = PoolRegistry()


def sandboxes_lost() -> int:
    """Return how many zygotes all pools of this process have lost so far."""
    return sum(pool.lost for pool in _pools)


@functools.cache
def default_pool(workers: int | None = None, allow_unconfined: bool = False, with_folder: bool = False) -> SandboxPool:
    """Return the pool of these options that everything in this process shares."""
    return SandboxPool(workers, allow_unconfined=allow_unconfined, with_folder=with_folder)


class _Slot:
    """A thread that serves the queue with one zygote, which is replaced when it is lost."""

    def __init__(
        self,
        choose: Callable[[], Tier],
        with_folder: bool,
        tasks: queue.SimpleQueue[_Task[Any] | None],
        note_loss: Callable[[], None],
    ) -> None:
        self._choose = choose
        self._with_folder = with_folder
        self._tasks = tasks
        self._note_loss = note_loss
        self._worker: Worker | None = None
        self.thread = threading.Thread(target=self._serve, name="sandbox", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            if not task.future.cancelled():
                self._perform(task)
            # Otherwise this variable would keep the task alive until the next one comes.
            del task
        self._drop()

    def _perform(self, task: _Task[Any]) -> None:
        """Run a task and set its future. The future stays pending until there is a result, so it can be cancelled."""
        try:
            ending = self._run(task.job, task.future.cancelled)
            result = None if ending.cause == CANCELLED else task.parse(task.job, ending)
        except BaseException as error:
            if task.future.set_running_or_notify_cancel():
                task.future.set_exception(error)
        else:
            if task.future.set_running_or_notify_cancel():
                task.future.set_result(result)

    def _run(self, job: Job, is_cancelled: Callable[[], bool]) -> Ending:
        lost = []
        for _ in range(2):
            if self._worker is None:
                self._worker = self._start()
            try:
                ending = self._worker.run(job, is_cancelled)
                if not self._worker.is_clean:
                    self._drop()
                return ending
            except WorkerLost as loss:
                logger.warning("a sandbox process died or did not answer; another one takes its place")
                lost.append(loss)
                self._note_loss()
                self._drop()
            except BaseException:
                # The zygote may still be working on this run and would send its answer to the next one.
                self._drop()
                raise
        return Ending(b"", b"", KILLED_WITH_SANDBOX if all(loss.began for loss in lost) else LOST)

    def _start(self) -> Worker:
        try:
            return Worker(self._choose(), self._with_folder)
        except OSError as problem:  # another run may find room, descriptors and time
            raise RuntimeError(f"no sandbox can be started now: {problem}") from problem

    def _drop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def forget(self) -> None:
        if self._worker is not None:
            self._worker.forget()
