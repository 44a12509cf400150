"""The reward function of CodeContests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from leafe_verl.environments.codecontests import CodeContests
from leafe_verl.environments.rows import build_verl_row

TRUTH = {
    "public_tests": {"input": ["1\n", "-3\n"], "output": ["2\n", "-6\n"]},
    "private_tests": {"input": ["0\n", "5\n"], "output": ["0\n", "10\n"]},
}


@pytest.mark.parametrize(
    ("solution", "score", "acc"),
    [
        ("Sure:\n```python\nprint(2 * int(input()))\n```", 1.0, 1.0),
        ("```python\nprint(2 * abs(int(input())))", 0.75, 0.0),
        ("print(", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_the_score_is_the_share_of_tests(compute_score: Any, solution: str, score: float, acc: float) -> None:
    assert compute_score("codecontests", solution, json.dumps(TRUTH), {"index": 1}) == {"score": score, "acc": acc}


def test_it_agrees_with_the_environment(compute_score: Any) -> None:
    task = CodeContests.task({"name": "a", "description": "Double.", **TRUTH})
    action = "```python\nprint(2 * max(int(input()), 0))\n```"
    environment = CodeContests()
    environment.reset(task, 0)
    ground_truth = build_verl_row(task, "test", 0)["reward_model"]["ground_truth"]
    assert compute_score("codecontests", action, ground_truth)["score"] == environment.step(action).reward == 0.75


@pytest.mark.parametrize("ground_truth", ["", "[]", "{}", None])
def test_a_ground_truth_that_is_none_is_refused(compute_score: Any, ground_truth: Any) -> None:
    with pytest.raises(ValueError, match="ground_truth|no tests"):
        compute_score("codecontests", "print(1)", ground_truth)


def test_its_options_are_those_of_the_environment(compute_score: Any) -> None:
    given = {"reward_router_address": None, "cpu_seconds": 2.0}  # verl gives the first
    assert compute_score("codecontests", "", json.dumps(TRUTH), **given)["acc"] == 0
    with pytest.raises(ValueError, match="reward_kwargs: .*memory_mb is 1000.0; expected at least 64, a whole number"):
        compute_score("codecontests", "", json.dumps(TRUTH), memory_mb=1e3)
    with pytest.raises(ValueError, match="reward_kwargs: .*'tolerance'"):
        compute_score("codecontests", "", json.dumps(TRUTH), tolerance=1)
