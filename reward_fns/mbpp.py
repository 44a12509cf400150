"""MBPP's verdict as a reward function of verl: custom_reward_function.path=reward_fns/mbpp.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leafe_verl.core.thoughts import without_thoughts
from leafe_verl.environments.mbpp import judge_answer
from leafe_verl.environments.mbpp_rows import parse_tests
from leafe_verl.sandbox import default_pool


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str | Mapping[str, Any],
    extra_info: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, float]:
    """Return `score`, the share of all asserts that hold, and `acc`, 1 if all of them do. Hidden asserts count too.

    `ground_truth`: an object with test_list, test_setup_code and challenge_test_list, or its JSON. Raises ValueError
    for anything else.
    """
    verdict = judge_answer(without_thoughts(solution_str), parse_tests(ground_truth), default_pool())
    return {"score": verdict.share, "acc": float(verdict.all_passed)}
