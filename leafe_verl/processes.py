"""Child processes: what becomes of them when this process is interrupted, exits or is forked."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def signal_name(number: int) -> str:
    """Return a signal's name, or its number: the real-time ones have none."""
    names = {each.value: each.name for each in signal.Signals}
    return names.get(number, f"signal {number}")


def end_with_parent() -> None:
    """Let SIGTERM reach this process once the thread that started it has ended. For `preexec_fn`."""
    _LIBC.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


@contextmanager
def leaving_ctrl_c_to_the_child() -> Iterator[None]:
    """Ignore Ctrl-C meanwhile. The terminal sends it to the child process as well, which says how it ended;
    `subprocess.run` would kill it after a quarter of a second."""
    before = signal.signal(signal.SIGINT, lambda *_: None)  # a child would inherit SIG_IGN
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class ClosablePool(Protocol):
    """What a registry needs of a pool."""

    def close(self) -> None:
        """End every child process. May be called twice."""

    def forget(self) -> None:
        """Begin anew in a forked copy of this process, which owns neither the children nor the threads of the pool."""


PoolType = TypeVar("PoolType", bound=ClosablePool)


class PoolRegistry(Generic[PoolType]):
    """All living pools of one class. Closes them when this process exits, and resets them in a forked copy of it."""

    def __init__(self) -> None:
        self._pools: weakref.WeakSet[PoolType] = weakref.WeakSet()
        atexit.register(self.close_all)
        os.register_at_fork(after_in_child=self._forget_all)

    def add(self, pool: PoolType) -> None:
        """Register a pool, which must be ready to be closed and forgotten."""
        self._pools.add(pool)

    def __iter__(self) -> Iterator[PoolType]:
        return iter(list(self._pools))

    def close_all(self) -> None:
        for pool in self:
            pool.close()

    def _forget_all(self) -> None:
        for pool in self:
            pool.forget()
