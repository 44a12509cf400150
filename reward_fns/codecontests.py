"""CodeContests' verdict as a reward function of verl: custom_reward_function.path=reward_fns/codecontests.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leafe_verl.core.thoughts import without_thoughts
from leafe_verl.environments.codecontests import MAX_GENERATED_TESTS, judge_answer
from leafe_verl.environments.codecontests_rows import parse_data
from leafe_verl.sandbox import default_pool


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str | Mapping[str, Any],
    extra_info: Mapping[str, Any] | None = None,
    max_generated_tests: int | None = MAX_GENERATED_TESTS,
    **kwargs: Any,
) -> dict[str, float]:
    """Return `score`, the share of the tests that the program passes, and `acc`, 1 if it passes all of them.

    `ground_truth`: an object with public_tests, private_tests, generated_tests and the limits, or its JSON. Raises
    ValueError for anything else. `max_generated_tests`: how many of the generated tests are run; None for all.
    """
    data = parse_data(ground_truth)
    verdict = judge_answer(without_thoughts(solution_str), data, default_pool(), max_generated=max_generated_tests)
    return {"score": verdict.share, "acc": float(verdict.all_passed)}
