"""An OpenEnv server by its URL: sessions, actions, errors, and a server that cannot be rolled back."""

from __future__ import annotations

import pytest

pytest.importorskip("openenv", reason="needs pip install leafe-verl[openenv]")

from environments.openenv_server import new_environment
from leafe_verl.core.environment import ReplayDivergence
from leafe_verl.environments import make
from leafe_verl.environments.openenv import OpenEnv

TASK = OpenEnv.task({"task_id": "a", "seed": 3, "options": {"number": 7}})


def test_a_session_is_played_to_its_end() -> None:
    environment = new_environment()
    assert environment.reset(TASK, 0) == ("Guess a number. The seed is 3.", {})
    steps = [environment.step(each) for each in ("9", "nine", "7")]
    assert [step.observation for step in steps] == ["Try 1: lower.", "Try 2: not a number.", "That is it."]
    assert [step.info["error"] for step in steps] == [False, True, False]
    assert (steps[2].reward, steps[2].terminated, steps[2].info["success"]) == (1.0, True, True)
    environment.close()


def test_an_action_may_be_an_object_and_what_does_not_fit_is_feedback() -> None:
    environment = new_environment(observation_field="text")
    environment._action_field = None
    environment.reset(TASK, 0)
    for odd in ("1" * 5000, "[" * 5000):  # json raises errors of other kinds for these
        assert environment.step(odd).info["error"]
    ill, refused, fit = (environment.step(each) for each in ("7", '{"words": "7"}', '{"text": "7"}'))
    assert ill.info["error"] and "one JSON object of this schema" in ill.observation
    assert refused.info["error"] and "VALIDATION_ERROR" in refused.observation
    assert fit.info["success"]
    environment.close()


def test_a_server_with_a_clock_is_refused_with_the_reason() -> None:
    environment = new_environment()
    environment.reset(TASK, 0)
    environment.step("time")
    with pytest.raises(ReplayDivergence, match="must be deterministic .* it now shows: .*It is . o'clock"):
        environment.restore(environment.snapshot())
    environment.close()


def test_addresses_and_rows_that_lead_nowhere_are_refused() -> None:
    with pytest.raises(ValueError, match=r"options\.url is 'http://127.0.0.1:9': no OpenEnv server answers"):
        make("openenv", url="http://127.0.0.1:9")
    with pytest.raises(ValueError, match="options is 3; expected an object for reset"):
        OpenEnv.task({"task_id": 1, "options": 3})
