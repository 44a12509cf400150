"""Text environments with Gymnasium's interface: one can be copied, one offers its state, one does neither."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Mapping, Sequence
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


class PointerDoors(Doors):
    """Holds a pointer of C, as bindings of emulators do: pickling it is a ValueError."""

    def __init__(self, num_doors: int = 4) -> None:
        super().__init__(num_doors)
        self.pointer = ctypes.pointer(ctypes.c_int(3))


class _Handle:
    """Can be pickled and not read back."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> Any:
    raise OSError("the server knows no such handle")


class HandleDoors(Doors):
    def __init__(self, num_doors: int = 4) -> None:
        super().__init__(num_doors)
        self.handle = _Handle()


class BrokenStateDoors(StatefulDoors):
    """Offers a state that cannot be pickled."""

    def get_state(self) -> Any:
        return ctypes.pointer(ctypes.c_int(3))


class Limited:
    """A wrapper with a state of its own, which passes nothing on, as Gymnasium's since 1.0."""

    def __init__(self, env: Any, steps: int = 3) -> None:
        self.env, self.most, self.taken = env, steps, 0

    @property
    def unwrapped(self) -> Any:
        return getattr(self.env, "unwrapped", self.env)

    def reset(self, **options: Any) -> Any:
        self.taken = 0
        return self.env.reset(**options)

    def step(self, action: str) -> Answer:
        self.taken += 1
        observation, reward, terminated, _, info = self.env.step(action)
        return observation, reward, terminated, self.taken >= self.most, info


class Forwarding(Limited):
    """A wrapper that passes on what it does not have, as those of old."""

    def __getattr__(self, name: str) -> Any:
        if name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)


class Sharing(Limited):
    """A wrapper that holds an object of the environment inside, and would hold another one after a copy."""

    def reset(self, **options: Any) -> Any:
        answer = super().reset(**options)
        self.random = self.unwrapped.random
        return answer


class SharingWithin(Limited):
    """The same, within a container of its own."""

    def reset(self, **options: Any) -> Any:
        answer = super().reset(**options)
        self.kept = {"random": [self.unwrapped.random]}
        return answer


class Calling(Limited):
    """A wrapper that holds the environment inside once more, and a method of it."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.again, self.call = env, env.step


def wrapped_doors(wrappers: Sequence[str]) -> Any:
    """Return doors that offer their state, within wrappers, the innermost first."""
    environment: Any = StatefulDoors()
    for wrapper in wrappers:
        environment = globals()[wrapper](environment)
    return environment


class DriftingDoors(UncopyableDoors):
    """Counts its steps over all attempts, so that a replay differs."""

    drift = 0

    def step(self, action: str) -> Answer:
        DriftingDoors.drift += 1
        observation, *rest = super().step(action)
        return f"{observation} ({DriftingDoors.drift})", *rest  # type: ignore[return-value]


class GlobalDice(Doors):
    """Draws from the global random generator, and counts in its class: neither is in a copy."""

    rolled = 0

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        random.seed(seed)
        GlobalDice.rolled = 0
        return "Roll.", {}

    def step(self, action: str) -> Answer:
        GlobalDice.rolled += 1
        return f"Roll {GlobalDice.rolled}: {random.randint(1, 1000)}.", 0.0, False, False, {}


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
