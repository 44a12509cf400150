"""Environments of `verifiers` by their module's name: turns, tools, ends, and what cannot be replayed."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("verifiers", reason="needs pip install leafe-verl[verifiers]")

from leafe_verl.core.environment import ReplayDivergence
from leafe_verl.environments import make
from leafe_verl.environments.verifiers import Verifiers

TASK = Verifiers.task({"example": 0})


def playing(kind: str, **options: Any) -> Verifiers:
    environment = make("verifiers", module="environments.verifiers_games", kwargs={"kind": kind}, **options)
    assert isinstance(environment, Verifiers)
    return environment


def test_its_own_rollout_is_played_and_scored() -> None:
    environment = playing("guessing", error="not a number")
    assert environment.reset(TASK, 0)[0] == "Guess my number."
    assert environment.system_prompt == "Answer with digits alone."
    steps = [environment.step(each) for each in ("50", "fifty", "42")]
    assert [step.observation for step in steps] == ["Try 1: lower.", "Try 2: not a number.", "That is it."]
    assert [step.info["error"] for step in steps] == [False, True, False]
    assert (steps[2].reward, steps[2].terminated, steps[2].info["success"]) == (1.0, True, True)
    environment.close()


def test_tools_are_called_in_the_models_form() -> None:
    environment = playing("tools")
    environment.reset(TASK, 0)
    assert environment.calls is not None and list(environment.calls.tools) == ["add"]
    call = f"<tool_call>\n{json.dumps({'name': 'add', 'arguments': {'a': 17, 'b': 25}})}\n</tool_call>"
    wrong, right = environment.step(call.replace("17", '"x"')), environment.step(call)
    assert wrong.info["error"] and "do not fit its schema" in wrong.observation
    assert right.observation == "42" and not right.terminated
    end = environment.step("They are 42.")
    assert end.terminated and end.info["success"] and end.observation == "The end: no_tools_called."


def test_answers_that_no_replay_repeats_are_refused_with_the_reason() -> None:
    environment = playing("drifting")
    environment.reset(TASK, 0)
    environment.step("50")
    with pytest.raises(ReplayDivergence, match="must be deterministic .* it now shows: .*It is . o'clock"):
        environment.restore(environment.snapshot())


def test_an_environment_that_verifiers_ships_is_played() -> None:
    pytest.importorskip("reasoning_gym", reason="needs pip install leafe-verl[reasoning_gym]")
    environment = make("verifiers", module="environments.verifiers_puzzles")
    observation, _ = environment.reset(TASK, 0)
    assert "legs" in observation
    snapshot = environment.snapshot()
    end = environment.step("<answer>7</answer>")
    assert end.terminated and not end.info["success"]
    assert environment.restore(snapshot) == 0 and environment.step("<answer>7</answer>") == end


def test_rows_and_options_that_lead_nowhere_are_refused() -> None:
    with pytest.raises(ValueError, match="example is None, split 'train'; expected a number"):
        Verifiers.task({"task_id": 1})
    with pytest.raises(ValueError, match=r"options\.module is 'no_such_module', which verifiers cannot load"):
        make("verifiers", module="no_such_module")
    with pytest.raises(ValueError, match="example is 9; train has 2 rows"):
        playing("guessing").reset(Verifiers.task({"example": 9}), 0)
