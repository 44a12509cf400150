"""Conversion of data set rows, among them rows of verl's parquet files, to tasks and back: what environments share."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Mapping
from typing import Any, TypeGuard

from leafe_verl.core.task import Task
from leafe_verl.environments import environment_class


def read_fields(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields that describe a task: the row itself, or what `build_verl_row` has put into it.

    The latter are the task's data, `task_id` and `text`. Raises ValueError if a row of verl's lacks them.
    """
    if "reward_model" not in row:
        return row
    extra = read_object(row, "extra_info")
    return {**read_ground_truth(row), "task_id": extra.get("task_id"), "text": extra.get("text")}


def read_ground_truth(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the task's data from the `reward_model` of a row of verl's. Raises ValueError if there are none."""
    reward_model = read_object(row, "reward_model")
    if "ground_truth" not in reward_model:
        raise ValueError(f"reward_model is {row['reward_model']!r:.80}; expected an object with ground_truth")
    return parse_ground_truth(reward_model["ground_truth"])


def read_object(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a field that holds an object or the JSON of one; an empty one where it is absent or empty.

    Raises ValueError, with the field's name, for anything else.
    """
    given = value = row.get(name)
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"{name} is {given!r:.80}, which is not JSON; expected an object, or its JSON") from None
    if value is not None and not isinstance(value, Mapping):
        if value:
            raise ValueError(f"{name} is {given!r:.80}; expected an object, or its JSON")
        value = None
    return value or {}


def without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are set. In parquet, an object has the fields of all rows, those of the others as null."""
    return {name: value for name, value in fields.items() if value is not None}


def parse_ground_truth(ground_truth: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the task's data from verl's ground truth: an object or its JSON. Raises ValueError for anything else."""
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
    """Return the task's key: its `task_id`, or the default. Raises ValueError if both are None."""
    key = default_key if fields.get("task_id") is None else str(fields["task_id"])
    if key is None:
        raise ValueError("no task_id; expected one, since reports refer to it")
    return key


def build_verl_row(task: Task, split: str, index: int) -> dict[str, Any]:
    """Return verl's parquet row of a task, which `task` of its environment's class reads back.

    The class may say in `ability` what the column of this name holds, and in `build_request(task)` what the prompt of a
    single-turn run is; by default these are "agent" and the task's instruction. One with a class method
    `verl_row(task, split, index)` makes the row itself. The task's data are stored as JSON: as parquet objects, each
    would get the fields of all other rows.
    """
    environment = environment_class(task.environment)
    if own := getattr(environment, "verl_row", None):
        row: dict[str, Any] = own(task, split, index)
        return row
    build_request = getattr(environment, "build_request", None)
    return {
        "data_source": task.environment,
        "prompt": [{"role": "user", "content": build_request(task) if build_request else task.instruction}],
        "ability": getattr(environment, "ability", "agent"),
        "reward_model": {"style": "rule", "ground_truth": json.dumps(dict(task.data))},
        "extra_info": {"split": split, "index": index, "task_id": task.key, "text": task.instruction},
    }


def read_count(fields: Mapping[str, Any], name: str) -> int | None:
    """Return an integer field, or None if it is absent. Raises ValueError if it is no integer or below 0."""
    value = fields.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError(f"{name} is {value!r:.80}; expected an integer of at least 0")


def read_strings(name: str, value: Any) -> list[str]:
    """Return a field that holds a list of strings. Raises ValueError, with the field's name, for anything else."""
    value = to_plain(value)
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name} is {value!r:.80}; expected a list of strings")
    return list(value)


def read_source(name: str, value: Any) -> str:
    """Return a field that holds Python source, or a list of its parts, as one text; an empty one if it is absent.

    Raises ValueError, with the field's name, for anything else and for what does not parse.
    """
    value = to_plain(value)
    if value is None:
        return ""
    source = value if isinstance(value, str) else "\n".join(read_strings(name, value))
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{name} is {value!r:.80}, which does not parse ({error}); expected Python source") from None
    return source


def is_amount(value: Any) -> TypeGuard[float]:
    """Return whether a value is a number of at least 0 that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


def to_plain(value: Any) -> Any:
    """Return an array, which readers of parquet may give, as a list, and any other value as it is."""
    return value.tolist() if hasattr(value, "tolist") else value
