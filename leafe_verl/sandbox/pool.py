"""A sandbox of a few zygotes that all threads and event loops of a process share."""

from __future__ import annotations

import functools
import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from leafe_verl.processes import PoolRegistry
from leafe_verl.sandbox.protocol import (
    KILLED,
    LOST,
    MALFORMED,
    NOT_REACHED,
    CallOutcome,
    CallResult,
    Limits,
    ProgramResult,
    RunResult,
)
from leafe_verl.sandbox.tiers import TIERS, UNCONFINED, Tier
from leafe_verl.sandbox.values import decode
from leafe_verl.sandbox.worker import CANCELLED, Ending, Job, Worker, WorkerLost

logger = logging.getLogger(__name__)
T = TypeVar("T")
BUBBLEWRAP = ("auto", "on", "off")


@dataclass(frozen=True)
class _Task(Generic[T]):
    """A run that somebody waits for."""

    job: Job
    parse: Callable[[Job, Ending], T]
    future: Future[T]


class SandboxPool:
    """Runs each program in a process of its own, forked from a small interpreter that holds nothing else.

    A program can compute, import the standard library, and no more: it gets no environment, no installed packages, no
    file it could write and no other process. Runs wait in one queue, first come first served, for one of `workers`
    interpreters, each of which has one thread here. Nothing starts before the first run. A forked copy of this process
    may use the pool, too: it starts interpreters of its own.

    A run whose zygote is lost is repeated once, since it has no effect but its answer. A program under which two were
    lost has failed: "killed". Would it go unscored, a policy could choose that for its failures.
    """

    def __init__(
        self,
        workers: int | None = None,
        tier: int | None = None,
        bubblewrap: str = "auto",
        allow_unconfined: bool = False,
    ) -> None:
        """`workers`: runs at a time; by default one for each processor that this process may use.

        `tier`: a number of TIERS, by default the firmest that works here. `bubblewrap`: "auto" uses it where it works,
        "on" insists on it, "off" does without. `allow_unconfined`: run programs also where no tier works.
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
        self._choose = functools.partial(_choose_tier, tier, bubblewrap, allow_unconfined)
        self._start_afresh()
        _pools.add(self)

    def _start_afresh(self) -> None:
        self._closed = False
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Task[Any] | None] = queue.SimpleQueue()
        self._slots: list[_Slot] = []
        self._unfinished: set[Future[Any]] = set()

    def call(self, code: str, setup: str, calls: Sequence[str], limits: Limits = Limits()) -> Future[RunResult]:  # noqa: B008
        """See `Sandbox.call`."""
        return self._submit(Job(code, limits, setup, tuple(calls)), _parse_calls)

    def execute(self, code: str, stdin: str, limits: Limits = Limits()) -> Future[ProgramResult]:  # noqa: B008
        """See `Sandbox.execute`."""
        return self._submit(Job(code, limits, stdin=stdin), _parse_program)

    def _submit(self, job: Job, parse: Callable[[Job, Ending], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the sandbox is closed")
            self._unfinished.add(future)
            self._queue.put(_Task(job, parse, future))
            if len(self._slots) < min(self.workers, len(self._unfinished)):
                self._slots.append(_Slot(self._choose, self._queue, self._note_loss))
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
        """In a forked copy of this process, where no thread of the pool is: begin anew."""
        for slot in self._slots:
            slot.forget()
        self._start_afresh()


_pools: PoolRegistry[SandboxPool] = PoolRegistry()


def sandboxes_lost() -> int:
    """Return how many zygotes all pools of this process have lost so far."""
    return sum(pool.lost for pool in _pools)


@functools.cache
def default_pool(workers: int | None = None, allow_unconfined: bool = False) -> SandboxPool:
    """Return the pool that everything in this process shares."""
    return SandboxPool(workers, allow_unconfined=allow_unconfined)


class _Slot:
    """A thread that serves the queue, and its zygote, which is replaced when it is lost."""

    def __init__(
        self,
        choose: Callable[[], Tier],
        tasks: queue.SimpleQueue[_Task[Any] | None],
        note_loss: Callable[[], None],
    ) -> None:
        self._choose = choose
        self._tasks = tasks
        self._note_loss = note_loss
        self._worker: Worker | None = None
        self.thread = threading.Thread(target=self._serve, name="sandbox", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            if not task.future.cancelled():
                self._perform(task)
            # Or the last one would be kept until the next one comes.
            del task
        self._drop()

    def _perform(self, task: _Task[Any]) -> None:
        """Until there is a result, the future counts as pending, so that it can be cancelled."""
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
                return self._worker.run(job, is_cancelled)
            except WorkerLost as loss:
                logger.warning("a sandbox process died or did not answer; another one takes its place")
                lost.append(loss)
                self._note_loss()
                self._drop()
            except BaseException:
                # The zygote may still be at work on this run, and would answer the next one with it.
                self._drop()
                raise
        return Ending(b"", b"", KILLED_WITH_SANDBOX if all(loss.began for loss in lost) else LOST)

    def _start(self) -> Worker:
        tier = self._choose()
        try:
            return Worker(tier)
        except OSError as problem:
            raise RuntimeError(f"no sandbox of {tier} could be started: {problem}") from problem

    def _drop(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._worker = None

    def forget(self) -> None:
        if self._worker is not None:
            self._worker.forget()


KILLED_WITH_SANDBOX = f"{KILLED} (its sandbox was lost, twice)"
_choosing = threading.Lock()


def _renew_lock() -> None:
    """Replace the lock in a forked copy of this process: a thread that only the original has may have held it."""
    global _choosing
    _choosing = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def _choose_tier(number: int | None, bubblewrap: str, allow_unconfined: bool) -> Tier:
    """Return the firmest tier that is wanted and works. Raises RuntimeError, with the reasons, when none does."""
    with _choosing:
        return _choose_once(number, bubblewrap, allow_unconfined)


@functools.cache
def _choose_once(number: int | None, bubblewrap: str, allow_unconfined: bool) -> Tier:
    candidates = [tier for tier in TIERS if _is_wanted(tier, number, bubblewrap)]
    problems: list[str] = []
    for tier in candidates:
        problem = _problem_with(tier)
        if problem is None:
            _note(tier, problems)
            return tier
        problems.append(f"tier {tier.number}: {problem}")
    if not allow_unconfined:
        raise RuntimeError(
            f"submitted code cannot be confined here ({'; '.join(problems)}), so that it could read and write what "
            "this process can; run in a container that allows Landlock or seccomp, or accept that by "
            "leafe.environment.options.allow_unconfined=true"
        )
    _note(UNCONFINED, problems)
    return UNCONFINED


def _is_wanted(tier: Tier, number: int | None, bubblewrap: str) -> bool:
    if number is not None:
        return tier.number == number
    return {"auto": True, "on": tier.bubblewrap, "off": not tier.bubblewrap}[bubblewrap]


def _note(tier: Tier, problems: list[str]) -> None:
    if problems:
        logger.warning("submitted code runs in %s; %s", tier, "; ".join(problems))
    else:
        logger.info("submitted code runs in %s", tier)


@functools.cache
def _problem_with(tier: Tier) -> str | None:
    """Start a zygote of a tier, which tries what its runs may not do. Returns None when it works, else the reason."""
    try:
        Worker(tier).close()
    except OSError as problem:
        return str(problem)
    return None


def available_tiers() -> tuple[Tier, ...]:
    """Return those of TIERS that work here. Each can be asked for by its number."""
    return tuple(tier for tier in TIERS if _problem_with(tier) is None)


def _parse_calls(job: Job, ending: Ending) -> RunResult:
    calls = job.calls or ()
    nothing = (NOT_REACHED,) * len(calls)
    if ending.cause in (LOST, KILLED_WITH_SANDBOX):
        return RunResult(nothing, ending.cause)
    confinement, lines = _split_answer(ending)
    try:
        failure, results = _read_answers([json.loads(line) for line in lines], len(calls))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return RunResult(nothing, MALFORMED, confinement)
    if failure is None and len(results) < len(calls):
        failure = ending.cause
    return RunResult((*results, *nothing[len(results) :]), failure, confinement)


def _parse_program(job: Job, ending: Ending) -> ProgramResult:
    if ending.cause in (LOST, KILLED_WITH_SANDBOX):
        return ProgramResult("", ending.cause)
    confinement, lines = _split_answer(ending)
    stdout = ending.stdout[: job.limits.output_bytes].decode("utf-8", "replace")
    failure = ending.cause
    if failure is None and ending.exit_code:
        failure = _told_failure(lines) or f"exit code {ending.exit_code}"
    return ProgramResult(stdout, failure, confinement)


def _split_answer(ending: Ending) -> tuple[tuple[str, ...], list[bytes]]:
    """Return what confined the run, which was written before any submitted code ran, and the lines since."""
    first, *lines = ending.answer.split(b"\n")
    if not lines:
        raise RuntimeError(
            f"a run did not start ({ending.cause or f'exit code {ending.exit_code}'}): the machine is too busy, or the "
            "run's memory limit is too small for an interpreter"
        )
    return tuple(json.loads(first)["confinement"]), lines[:-1]


def _told_failure(lines: list[bytes]) -> str | None:
    """What the program's process said about its end; it may say anything."""
    try:
        return _text(json.loads(lines[-1])["failure"])
    except (IndexError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _read_answers(lines: list[Any], num_calls: int) -> tuple[str | None, list[CallResult]]:
    """Return (failure at definition or None, results of the calls that were answered)."""
    if not lines:
        return None, []
    definition, *answers = lines
    if set(definition) == {"failure"}:
        return _text(definition["failure"]), []
    if definition != {"defined": True} or len(answers) > num_calls:
        raise ValueError("no line that says whether the code could be defined, or too many lines")
    return None, list(_results(answers))


def _results(answers: list[Any]) -> Iterator[CallResult]:
    for answer in answers:
        ((kind, content),) = answer.items()
        if kind == "value":
            yield CallResult(CallOutcome.VALUE, decode(content))
        else:
            yield CallResult(CallOutcome[kind.upper()], text=_text(content))


def _text(content: Any) -> str:
    if not isinstance(content, str):
        raise TypeError(f"expected a text, got {type(content).__name__}")
    return content
