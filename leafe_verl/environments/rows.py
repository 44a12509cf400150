"""Rows of verl's parquet files, to and from tasks, for environments whose rows need nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from leafe_verl.core.task import Task


def read_fields(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a data set's own row as it is; of a row that `build_verl_row` wrote, the task's data, task_id and text.

    Raises ValueError for a row of verl's without them.
    """
    if "reward_model" not in row:
        return row
    reward_model, extra = row["reward_model"], row.get("extra_info") or {}
    if not isinstance(reward_model, Mapping) or "ground_truth" not in reward_model:
        raise ValueError(f"reward_model is {reward_model!r:.80}; expected an object with ground_truth")
    data = parse_ground_truth(reward_model["ground_truth"])
    return {**data, "task_id": extra.get("task_id"), "text": extra.get("text")}


def parse_ground_truth(ground_truth: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the task's data in verl's ground truth: an object, or its JSON. Raises ValueError for anything else."""
    if isinstance(ground_truth, str):
        try:
            ground_truth = json.loads(ground_truth)
        except json.JSONDecodeError as error:
            raise ValueError(f"reward_model.ground_truth is not JSON ({error}): {ground_truth!r:.80}") from None
    if not isinstance(ground_truth, Mapping):
        raise ValueError(
            f"reward_model.ground_truth is a {type(ground_truth).__name__}; expected an object, or its JSON"
        )
    return ground_truth


def task_key(fields: Mapping[str, Any], default_key: str | None) -> str:
    """Return the task's key, `task_id`. Raises ValueError where there is none and no default."""
    key = default_key if fields.get("task_id") is None else str(fields["task_id"])
    if key is None:
        raise ValueError("no task_id; expected one, since reports refer to it")
    return key


def build_verl_row(task: Task, ability: str, split: str, index: int, request: str | None = None) -> dict[str, Any]:
    """Return verl's parquet row; `request` is what a single-turn run asks, by default the instruction.

    The data are JSON: in parquet, objects of different rows would get each other's fields.
    """
    return {
        "data_source": task.environment,
        "prompt": [{"role": "user", "content": task.instruction if request is None else request}],
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": json.dumps(dict(task.data))},
        "extra_info": {"split": split, "index": index, "task_id": task.key, "text": task.instruction},
    }


def read_count(fields: Mapping[str, Any], name: str) -> int | None:
    """Return the integer of a field, or None without one. Raises ValueError for one that is none, or below 0."""
    value = fields.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError(f"{name} is {value!r:.80}; expected an integer of at least 0")
