"""Calls to an environment: in one thread for each attempt, with a time limit, and closed if they come too late."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from leafe_verl.core.environment import Environment, EnvironmentFailure, EnvironmentTimeout

logger = logging.getLogger(__name__)

T = TypeVar("T")


class CallThread:
    """The thread that makes the calls of one attempt to its environment, one after the other.

    What an environment opens may be bound to a thread, as a connection of sqlite3 or a browser of Playwright is. A call
    that hangs can be neither cancelled nor waited for: another thread takes over, and the old one ends with that call.
    """

    def __init__(self) -> None:
        self._worker: _Worker | None = None

    def run(self, compute: Callable[[], Any], deliver: Callable[[Any], None]) -> None:
        """Call `compute` in the thread, and then `deliver` with what it returned. Neither may raise."""
        if self._worker is None or self._worker.busy:
            self.end()
            self._worker = _Worker()
        self._worker.busy = True
        self._worker.calls.put((compute, deliver))

    def end(self) -> None:
        """Let the thread end after its last call. Another call begins another thread."""
        if self._worker is not None:
            self._worker.calls.put(None)
        self._worker = None


class _Worker:
    def __init__(self) -> None:
        self.calls: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = SimpleQueue()
        self.busy = False
        threading.Thread(target=self._work, name="environment", daemon=True).start()

    def _work(self) -> None:
        while call := self.calls.get():
            compute, deliver = call
            computed = compute()
            self.busy = False  # before it is delivered, since the next call may come at once
            deliver(computed)


async def call_within(
    seconds: float, what: str, function: Callable[..., T], *arguments: Any, thread: CallThread | None = None
) -> T:
    """Run a blocking environment call. Raises EnvironmentFailure if it raises, EnvironmentTimeout after `seconds`.

    An environment that is made when nobody waits for it any more is closed, and so is one that a call returns from by
    then: what it has opened since it was closed would stay open.

    Args:
        thread: Makes the call. None: a thread of its own does.
    """
    own = thread or CallThread()
    result = _start(own, what, function, *arguments)
    if thread is None:
        own.end()
    try:
        return await asyncio.wait_for(result, seconds)
    except TimeoutError:
        raise EnvironmentTimeout(
            f"{what} took longer than {seconds:g} s; leafe.environment.step_timeout sets the limit"
        ) from None


def _start(thread: CallThread, what: str, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def compute() -> tuple[Callable[[Any], None], Any]:
        try:
            return result.set_result, function(*arguments)
        except BaseException as error:
            return result.set_exception, as_failure(what, error)

    def settle(setter: Callable[[Any], None], value: Any) -> None:
        if not result.done():
            setter(value)
        else:  # not in this thread, which is the loop's
            threading.Thread(target=close_late, args=(value,), daemon=True).start()

    def close_late(value: Any) -> None:
        for each in (value, getattr(function, "__self__", None), *arguments):
            _close_late(what, each)

    def deliver(outcome: tuple[Callable[[Any], None], Any]) -> None:
        try:
            loop.call_soon_threadsafe(settle, *outcome)
        except RuntimeError:  # the loop has closed while the call hung
            close_late(outcome[1])

    thread.run(compute, deliver)
    return result


def _close_late(what: str, value: Any) -> None:
    """Close what a call that came too late returned or worked on, if it is an environment."""
    try:
        getattr(value, "close", lambda: None)()
    except Exception as error:
        logger.warning("%s came too late, and closing it failed: %s: %s", what, type(error).__name__, error)


async def close_within(seconds: float, name: str, environment: Environment, thread: CallThread | None = None) -> None:
    """Close an environment. A failure is logged, since nothing depends on it."""
    try:
        await call_within(seconds, f"{name}.close", environment.close, thread=thread)
    except EnvironmentFailure as failure:
        logger.warning("%s", failure)


def as_failure(what: str, error: BaseException) -> EnvironmentFailure:
    if isinstance(error, EnvironmentFailure):
        return error
    failure = EnvironmentFailure(f"{what} raised {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
