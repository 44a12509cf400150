"""Running coroutines together, and stopping them early."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from leafe_verl.core.policy import PolicyFailure

T = TypeVar("T")


class Interrupted(PolicyFailure):
    """Exploring had to stop while this was under way."""


async def gather_or_cancel(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all of them concurrently. If one raises, which only a bug does, cancel the others and wait for them."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`. If `stop` is set first, cancel it and raise Interrupted."""
    working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
    finally:
        stopped.cancel()
        # asyncio.wait_for, before Python 3.12, swallows a cancellation that comes together with what it waits for.
        while not working.done():
            working.cancel()
            await asyncio.wait({working}, timeout=1)
    raise Interrupted("the training step ended first; leafe.collection.share sets when")
