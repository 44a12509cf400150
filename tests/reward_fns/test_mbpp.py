"""The reward function."""

from __future__ import annotations

import json
from typing import Any

import pytest

from leafe_verl.environments.mbpp import MBPP
from leafe_verl.environments.rows import build_verl_row

TRUTH = {
    "test_list": ["assert double(1) == 2", "assert double(-3) == -6"],
    "test_setup_code": "",
    "challenge_test_list": ["assert double(0) == 0", "assert double('a') == 'aa'"],
}


@pytest.mark.parametrize(
    ("solution", "score", "acc"),
    [
        ("Sure:\n```python\ndef double(n):\n    return n * 2\n```", 1.0, 1.0),
        ("```python\ndef double(n): return n * 2 if n else None", 0.75, 0.0),
        ("def double(n): return -6", 0.25, 0.0),
        ("def double(n) return", 0.0, 0.0),
        ("<think>\n```python\ndef double(n): return n * 2\n```\n</think>\n\ndef double(n): return -6", 0.25, 0.0),
        ("<think>\n```python\ndef double(n): return n * 2\n```\n", 0.0, 0.0),
        ("I cannot.", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_the_score_is_the_share_of_tests(compute_score: Any, solution: str, score: float, acc: float) -> None:
    assert compute_score("mbpp", solution, json.dumps(TRUTH), {"index": 1}) == {"score": score, "acc": acc}


def test_it_agrees_with_the_environment(compute_score: Any) -> None:
    task = MBPP.task({"task_id": 1, "text": "Double.", **TRUTH})
    action = "```python\ndef double(n): return n + n if n > -2 else 0\n```"
    environment = MBPP()
    environment.reset(task, 0)
    ground_truth = build_verl_row(task, "test", 0)["reward_model"]["ground_truth"]
    assert compute_score("mbpp", action, ground_truth)["score"] == environment.step(action).reward == 0.5


def test_an_object_is_a_ground_truth_too(compute_score: Any) -> None:
    assert compute_score("mbpp", "def double(n): return n * 2", TRUTH)["acc"] == 1.0


@pytest.mark.parametrize("ground_truth", ["", "[]", "{}", None, {"test_list": []}, {"test_list": ["assert"]}])
def test_a_ground_truth_that_is_none_is_refused(compute_score: Any, ground_truth: Any) -> None:
    with pytest.raises(ValueError, match="ground_truth|test_list|does not parse"):
        compute_score("mbpp", "def double(n): return n", ground_truth)


def test_its_options_are_those_of_the_environment(compute_score: Any) -> None:
    given = {"reward_router_address": None, "cpu_seconds": 2.0}  # verl gives the first
    assert compute_score("mbpp", "", json.dumps(TRUTH), **given)["acc"] == 0
    with pytest.raises(ValueError, match="reward_kwargs: .*memory_mb is 1000.0; expected at least 64, a whole number"):
        compute_score("mbpp", "", json.dumps(TRUTH), memory_mb=1e3)
    with pytest.raises(ValueError, match="reward_kwargs: .*'tolerance'"):
        compute_score("mbpp", "", json.dumps(TRUTH), tolerance=1)
