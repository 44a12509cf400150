"""Text environments of Gymnasium's form: one with a state of its own, one that can be copied, one that can neither."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

Answer = tuple[str, float, bool, bool, dict[str, Any]]


class Doors:
    """A corridor of doors: open `left` or `right`; the right one of each door is drawn by the seed. No way back."""

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
    """Offers its state, which its lambda does not let be copied."""

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
    """Counts its steps over all attempts."""

    drift = 0

    def step(self, action: str) -> Answer:
        DriftingDoors.drift += 1
        observation, *rest = super().step(action)
        return f"{observation} ({DriftingDoors.drift})", *rest  # type: ignore[return-value]


class Numbers(Doors):
    """Its observations are no texts."""

    def reset(self, **_: Any) -> Any:
        return 3, {}


try:
    import gymnasium
except ImportError:
    pass
else:

    class GymnasiumDoors(Doors, gymnasium.Env[str, str]):
        """As `gymnasium.make` wants it."""

        observation_space = gymnasium.spaces.Text(100)
        action_space = gymnasium.spaces.Text(100)
