"""The verdict of an environment whose answers are code, as a reward of verl's single-turn runs; see reward_fns/."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from leafe_verl.core.task import Task
from leafe_verl.core.thoughts import without_thoughts
from leafe_verl.environments import make
from leafe_verl.environments.code_environment import CodeEnvironment

SETTING = "reward.custom_reward_function.reward_kwargs"


def score_answer(
    environment: str, answer: str, data: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, float]:
    """Return `score`, the share of a task's tests that an answer passes, and `acc`, 1 if it passes all of them.

    `data`: the fields of the task. `options`: those of the environment, which raises ValueError for any other.
    """
    judge = _make(environment, tuple(sorted(options.items())))
    task = Task("of verl", "", environment, data)
    verdict = judge.judge(judge.extract(without_thoughts(answer), task).code, task)
    return {"score": verdict.share, "acc": float(verdict.all_passed)}


@functools.lru_cache(maxsize=16)
def _make(environment: str, options: tuple[tuple[str, Any], ...]) -> CodeEnvironment:
    try:
        made = make(environment, **dict(options))
    except ValueError as error:
        raise ValueError(f"{SETTING}: {error}") from error
    assert isinstance(made, CodeEnvironment)
    return made
