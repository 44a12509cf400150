"""The tasks of reasoning-gym, a library of generated puzzles with verifiers, with several answers to each."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leafe_verl.core.environment import Step
from leafe_verl.core.task import Task
from leafe_verl.environments.extras import require_extra
from leafe_verl.environments.options import require_whole
from leafe_verl.environments.rows import read_count, read_fields, task_key, without_nulls
from leafe_verl.environments.state_environment import StateEnvironment

NAME = "reasoning_gym"
EXTRA = {"reasoning_gym": "reasoning-gym"}
SYSTEM_PROMPT = "Solve the task. Think, then write the final answer, and nothing else, between <answer> and </answer>."
NO_ANSWER = "No answer found. Write it between <answer> and </answer>."

_EVALUATES = re.compile(r"\b(?:parse_expr|sympify|eval|exec)\(")
"""What a verifier of a data set evaluates text with: sympy's functions are `eval`."""


@dataclass(frozen=True)
class ReasoningState:
    """Which task is played. Wrong answers change nothing."""

    task: Task


class ReasoningGym(StateEnvironment[ReasoningState]):
    """An answer that the data set's verifier gives the full score solves the task; any other may be tried again.

    The reward of the answer that solves the task is 1, and that of any other 0. A wrong answer is told its score, which
    for many data sets tells how near it is.
    """

    ability = "reasoning"

    def __init__(self, horizon: int = 4, system_prompt: str = SYSTEM_PROMPT) -> None:
        """`horizon`: answers after which an attempt ends. Raises ModuleNotFoundError without reasoning-gym."""
        require_extra(NAME, EXTRA)
        require_whole(1, horizon=horizon)
        self.horizon, self.system_prompt = horizon, system_prompt

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Return the task of a row such as {"dataset": "maze", "seed": 0, "index": 3, "config": {"max_dist": 8}}.

        `seed` and `index` are 0 if absent; `size` is 500, as in reasoning-gym, since the tasks of a few data sets
        depend on it; `config` has the data set's settings. Raises ValueError for anything else, and for a data set or a
        setting that reasoning-gym does not know.
        """
        require_extra(NAME, EXTRA)
        fields = read_fields(row)
        dataset, config = fields.get("dataset"), fields.get("config") or {}
        if not isinstance(dataset, str) or not isinstance(config, Mapping):
            raise ValueError(
                f"dataset is {dataset!r:.80}, config {config!r:.80}; expected a name, and an object or none"
            )
        seed, index = (read_count(fields, name) or 0 for name in ("seed", "index"))
        size = max(read_count(fields, "size") or 500, index + 1)
        data = {"dataset": dataset, "seed": seed, "size": size, "index": index, "config": without_nulls(config)}
        default_key = f"{dataset}-{seed}-{index}" if default_key is None else default_key
        return Task(task_key(fields, default_key), _load(data)[1]["question"].strip(), NAME, data)

    @staticmethod
    def build_request(task: Task) -> str:
        """Return the prompt of a single-turn run, which says what form an answer has."""
        return f"{task.instruction}\n\n{SYSTEM_PROMPT}"

    def reset(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        self.state = ReasoningState(task)
        return task.instruction, {}

    def step(self, action: str) -> Step:
        from reasoning_gym.utils import extract_answer

        answer = extract_answer(action)
        if not answer:
            return Step(NO_ANSWER, 0.0, False, False, {"success": False, "error": True, "failed": True})
        dataset, entry = _load(self.state.task.data)
        try:
            score = float(dataset.score_answer(answer, entry))
        except Exception:  # some verifiers fail on an answer of another form than they expect, which is a wrong answer
            score = 0.0
        solved = score >= 1
        told = "That is right." if solved else f"That is not right; its score is {score:.2g} of 1. Answer again."
        info = {"success": solved, "error": False, "failed": not solved, "action": answer}
        return Step(told, float(solved), solved, False, info)


def _load(data: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    return _load_cached(json.dumps(data, sort_keys=True))


@functools.lru_cache(maxsize=256)
def _load_cached(data: str) -> tuple[Any, dict[str, Any]]:
    """Return a data set and one entry of it. Raises ValueError for an unknown name or setting."""
    import reasoning_gym

    where = json.loads(data)
    try:
        dataset = reasoning_gym.create_dataset(
            where["dataset"], seed=where["seed"], size=where["size"], **where["config"]
        )
    except (TypeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"reasoning-gym has no data set {where['dataset']!r} with the settings {where['config']}: {error}"
        ) from error
    if _EVALUATES.search(inspect.getsource(type(dataset))):
        raise ValueError(
            f"reasoning-gym's {where['dataset']!r} evaluates code, perhaps that of an answer, which would run outside "
            "of the sandbox; expected a data set that does not"
        )
    return dataset, dataset[where["index"]]
