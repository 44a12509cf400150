"""Text environments with Gymnasium's interface: one can be copied, one offers its state, one does neither."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

Answer = tuple[str, float, bool, bool, dict[str, Any]]


class Doors:
    """A corridor of doors. At each, `left` or `right` is correct, as drawn by the seed. There is no way back."""

    def __init__(self, num_doors: int = 4) -> None:
        self.usual_doors = num_doors
        self.closed = False

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self.random = random.Random(seed)
        self.num_doors = (options or {}).get("num_doors", self.usual_doors)
        self.passed = self.steps = 0
        self.next = self.random.choice(("left", "right"))
        return f"{self.num_doors} doors: go left or right.", {}

    def step(self, action: str) -> Answer:
        self.steps += 1
        if action not in ("left", "right"):
            return f"There is no way {action[:20]!a}.", 0.0, False, False, {"error": True}
        if action == self.next:
            self.passed += 1
            self.next = self.random.choice(("left", "right"))
        done = self.passed == self.num_doors
        return f"Step {self.steps}, {self.passed} doors passed.", float(done), done, False, {}

    def close(self) -> None:
        self.closed = True


class StatefulDoors(Doors):
    """Offers its state. It cannot be copied, because it holds a lambda."""

    def __init__(self, num_doors: int = 4) -> None:
        super().__init__(num_doors)
        self.uncopyable = lambda: None

    def get_state(self) -> tuple[Any, ...]:
        return self.random.getstate(), self.passed, self.steps, self.next, self.num_doors

    def set_state(self, state: tuple[Any, ...]) -> None:
        randomness, self.passed, self.steps, self.next, self.num_doors = state
        self.random.setstate(randomness)


class UncopyableDoors(Doors):
    def __init__(self, num_doors: int = 4) -> None:
        super().__init__(num_doors)
        self.uncopyable = lambda: None


class DriftingDoors(UncopyableDoors):
    """Counts its steps over all attempts, so that a replay differs."""

    drift = 0

    def step(self, action: str) -> Answer:
        DriftingDoors.drift += 1
        observation, *rest = super().step(action)
        return f"{observation} ({DriftingDoors.drift})", *rest  # type: ignore[return-value]


class Numbers(Doors):
    """Gives observations that are not strings."""

    def reset(self, **_: Any) -> Any:
        return 3, {}


try:
    import gymnasium
except ImportError:
    pass
else:

    class GymnasiumDoors(Doors, gymnasium.Env[str, str]):
        """`Doors` with what `gymnasium.make` requires."""

        observation_space = gymnasium.spaces.Text(100)
        action_space = gymnasium.spaces.Text(100)
