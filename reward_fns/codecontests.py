"""CodeContests' verdict as a reward function of verl: reward.custom_reward_function.path=reward_fns/codecontests.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leafe_verl.environments.codecontests_rows import parse_data
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
    """Return `score`, the share of the tests that the program passes, and `acc`, 1 if it passes all of them.

    `ground_truth`: an object with public_tests, private_tests, generated_tests and the limits, or its JSON. `options`:
    those of the environment `codecontests`, from reward.custom_reward_function.reward_kwargs. Raises ValueError for
    anything else. verl gives the other arguments, which have no say in the verdict.
    """
    return score_answer("codecontests", solution_str, parse_data(ground_truth), options)
