"""MBPP's verdict as a reward function of verl: reward.custom_reward_function.path=reward_fns/mbpp.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leafe_verl.environments.mbpp_rows import parse_tests
from leafe_verl.environments.reward import score_answer


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str | Mapping[str, Any],
    extra_info: Mapping[str, Any] | None = None,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
    **options: Any,
) -> dict[str, float]:
    """Return `score`, the share of all asserts that hold, and `acc`, 1 if all of them do. Hidden asserts count too.

    `ground_truth`: an object with test_list, test_setup_code and challenge_test_list, or its JSON. `options`: those of
    the environment `mbpp`, from reward.custom_reward_function.reward_kwargs. Raises ValueError for anything else. verl
    gives the other arguments, which have no say in the verdict.
    """
    return score_answer("mbpp", solution_str, parse_tests(ground_truth), options)
