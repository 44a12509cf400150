"""Games that draw from the global random generators take turns."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("numpy", reason="numpy is not installed")

from leafe_verl.environments import own_randomness
from leafe_verl.environments.own_randomness import OwnRandomness


def test_a_move_does_not_wait_for_ever_for_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_randomness, "PATIENCE", 0.05)
    begun, end = threading.Event(), threading.Event()

    def hang() -> None:
        with OwnRandomness(0).in_use():
            begun.set()
            end.wait(60)

    thread = threading.Thread(target=hang)
    thread.start()
    begun.wait(60)
    with pytest.raises(TimeoutError, match="has not ended a move for .*expected a game, and an options.opponent"):
        OwnRandomness(1).in_use().__enter__()
    end.set()
    thread.join()
    with OwnRandomness(1).in_use():
        pass
