"""The global random generators of Python and NumPy, with a state of its own for each game that draws from them."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy

_lock = threading.RLock()
PATIENCE = 45.0
"""Seconds that a move waits for those of others."""


class OwnRandomness:
    """What a game draws from the global generators while it is `in_use`, as if it played alone in the process.

    Games of several libraries seed the global generators and draw from them. Attempts are played in threads of one
    process, and without this each would change what the others draw. One game at a time is `in_use`.
    """

    def __init__(self, seed: int) -> None:
        self._state: Any = (random.Random(seed).getstate(), numpy.random.RandomState(seed % 2**32).get_state())

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Raises TimeoutError if another game stays in use."""
        if not _lock.acquire(timeout=PATIENCE):
            raise TimeoutError(
                f"another game or its opponent has not ended a move for {PATIENCE:g} s, and games that share the "
                "global random generators move one at a time; expected a game, and an options.opponent, that return"
            )
        try:
            outside = _take()
            _set(self._state)
            try:
                yield
            finally:
                self._state = _take()
                _set(outside)
        finally:
            _lock.release()


def _take() -> Any:
    return random.getstate(), numpy.random.get_state()


def _set(state: Any) -> None:
    python, of_numpy = state
    random.setstate(python)
    numpy.random.set_state(of_numpy)
