"""Actors of verl that nobody restarts, and without which a run would wait for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError

PING_SECONDS = 5.0
"""Seconds between two questions to an actor that has answered."""

T = TypeVar("T")


class RequiredActor:
    """Asks an actor now and then whether it lives. One that is busy answers later, and a dead one is known to Ray."""

    def __init__(self, name: str, handle: Any) -> None:
        self._name, self._handle = name, handle
        self._ping: ray.ObjectRef[None] | None = None
        self._answered_at = float("-inf")

    def require(self) -> None:
        """Raise RuntimeError if the actor has died. Does not wait for its answer."""
        if self._ping is None:
            if time.monotonic() - self._answered_at < PING_SECONDS:
                return
            self._ping = self._handle.__ray_call__.remote(_do_nothing)
        answered, _ = ray.wait([self._ping], timeout=0)
        if not answered:
            return
        try:
            ray.get(answered)
        except RayActorError as error:
            raise RuntimeError(
                f"{self._name} died, without which nothing goes on; run the same command again to resume from the last "
                "checkpoint"
            ) from error
        self._ping, self._answered_at = None, time.monotonic()

    def while_it_lives(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, which may wait for this actor for ever. Raises RuntimeError if it dies."""
        done: Future[T] = Future()
        threading.Thread(target=lambda: settle(done, work), name=self._name, daemon=True).start()
        while not wait([done], PING_SECONDS).done:
            self.require()
        return done.result()


def settle(done: Future[T], work: Callable[[], T]) -> None:
    """Give a future what `work` returns or raises."""
    try:
        result = work()
    except BaseException as error:
        done.set_exception(error)
    else:
        done.set_result(result)


def _do_nothing(actor: Any) -> None:
    """The question."""
