"""MBPP's verdict as a reward function of verl: custom_reward_function.path=reward_fns/mbpp.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leafe_verl.environments.mbpp import extract_code
from leafe_verl.environments.mbpp_rows import parse_tests
from leafe_verl.sandbox import default_pool, judge


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str | Mapping[str, Any],
    extra_info: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, float]:
    """Return `score`, the share of all asserts that hold, hidden ones included, and `acc`, 1 when all do.

    `ground_truth`: an object with test_list, test_setup_code and challenge_test_list, or its JSON. Raises ValueError
    for a ground truth that is none.
    """
    tests = parse_tests(ground_truth)
    code = extract_code(solution_str)
    if not code.strip():
        return {"score": 0.0, "acc": 0.0}
    asserts = [*tests["test_list"], *tests["challenge_test_list"]]
    verdict = judge(code, asserts, tests["test_setup_code"], default_pool())
    return {"score": verdict.share, "acc": float(verdict.all_passed)}
