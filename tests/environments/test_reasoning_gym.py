"""The tasks of reasoning-gym: rows, answers and scores."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("reasoning_gym", reason="needs pip install leafe-verl[reasoning_gym]")

from leafe_verl.environments.reasoning_gym import ReasoningGym
from leafe_verl.environments.rows import build_verl_row

LEGS = {"dataset": "leg_counting", "seed": 3, "index": 2}


def test_a_task_is_the_same_wherever_it_is_read() -> None:
    task = ReasoningGym.task(LEGS)
    assert task.key == "leg_counting-3-2" and "how many legs" in task.instruction
    assert task.data == {**LEGS, "size": 500, "config": {}}
    assert ReasoningGym.task(build_verl_row(task, "train", 0)) == task


def test_a_wrong_answer_is_told_its_score_and_may_be_corrected() -> None:
    environment = ReasoningGym()
    environment.reset(ReasoningGym.task(LEGS), 0)
    wrong, none, right = (
        environment.step(f"So: {each}") for each in ("<answer>18</answer>", "184", "<answer>184</answer>")
    )
    assert wrong.observation == "That is not right; its score is 0 of 1. Answer again."
    assert (wrong.reward, wrong.info["failed"], wrong.info["action"]) == (0.0, True, "18")
    assert none.info["error"] and "between <answer> and </answer>" in none.observation
    assert right.terminated and right.info["success"] and right.reward == 1


def test_an_answer_that_a_verifier_fails_on_is_wrong() -> None:
    environment = ReasoningGym()
    environment.reset(ReasoningGym.task({"dataset": "game_of_life"}), 0)
    step = environment.step("<answer>{}</answer>")
    assert (step.reward, step.info["failed"], step.terminated) == (0.0, True, False)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({}, "dataset is None"),
        ({"dataset": "no_such_data_set"}, "no data set 'no_such_data_set'"),
        ({"dataset": "maze", "config": {"nothing": 3}}, "settings {'nothing': 3}"),
        ({"dataset": "maze", "index": -1}, "index is -1; expected an integer of at least 0"),
    ],
)
def test_a_row_that_is_no_task_is_refused(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ReasoningGym.task(row)
