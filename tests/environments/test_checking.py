"""The check of an environment of one's own."""

from __future__ import annotations

from typing import Any

import pytest

from environments.example import Guess
from leafe_verl.core.environment import EnvironmentFailure, Step
from leafe_verl.environments.checking import check_environment

TASK = Guess.task({"task_id": "a", "number": 42})
ACTIONS = ["50", "25", "about 40", "42", "43"]


def test_a_sound_environment_passes() -> None:
    check_environment(Guess, TASK, ACTIONS)


class Counting(Guess):
    calls = 0

    def advance(self, action: str) -> Step:
        Counting.calls += 1
        return super().advance(action)._replace(observation=f"call {Counting.calls}")


class Forgetful(Guess):
    def restore(self, snapshot: Any) -> int:
        self.reset(TASK, 0)
        self.number = 7
        return 0


class Untold(Guess):
    def advance(self, action: str) -> Step:
        return super().advance(action)._replace(reward=float("nan"))


class Wordless(Guess):
    def advance(self, action: str) -> Step:
        return super().advance(action)._replace(observation=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        (Counting, "the same actions gave other answers in another instance"),
        (Forgetful, "after 0 steps were restored, the same actions gave others"),
        (Wordless, "an observation is of type int, no text"),
    ],
)
def test_what_exploring_could_not_rely_on_is_told(environment: type[Guess], problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        check_environment(environment, TASK, ACTIONS)


def test_a_step_that_is_none_is_told() -> None:
    with pytest.raises(EnvironmentFailure, match="the reward is nan"):
        check_environment(Untold, TASK, ACTIONS)
