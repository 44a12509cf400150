"""Parsing the rows of a data set into tasks. All problems are reported at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from leafe_verl.core.task import Task
from leafe_verl.core.text import describe_error
from leafe_verl.environments import environment_class

logger = logging.getLogger(__name__)

SHOWN_PROBLEMS = 10


def parse_rows(
    rows: Iterable[tuple[int, Mapping[str, Any] | ValueError]],
    environment_name: str,
    source: str,
    *,
    leave_out: bool = False,
    unit: str = "row",
) -> list[Task]:
    """Return the tasks of `rows`, which are pairs of a row's number and the row.

    A ValueError in the place of a row says why the row could not be read. `source`: name of the data set, for messages.
    Raises ValueError if a row is not a task, repeats a key or could not be read; the message counts these rows and
    shows the first ten. With `leave_out` they are logged instead, as long as a task remains. Raises ValueError if there
    are no rows. `unit`: what the rows' numbers count, for messages.
    """
    parse = environment_class(environment_name).task
    tasks: dict[str, Task] = {}
    problems = []
    for number, row in rows:
        try:
            if isinstance(row, ValueError):
                raise row
            task = _encodable(parse(row, default_key=str(number)))
            if not task.environment:
                task = replace(task, environment=environment_name)
            if task.key in tasks:
                raise ValueError(f"an earlier row has the key {task.key!r}; expected one row per key")
            tasks[task.key] = task
        except ValueError as error:
            problems.append(f"  {unit} {number}: {error}")
        except ImportError:  # what the environment needs is missing, whatever the row
            raise
        except Exception as error:  # of an environment's own `task`, which may meet a row that it has not thought of
            problems.append(f"  {unit} {number}: {_describe(error)}")
    if problems:
        heading = f"{source}: {len(problems)} rows are not tasks of {environment_name!r}"
        _report(heading, problems, left_out=leave_out and bool(tasks))
    if not tasks:
        raise ValueError(f"{source} holds no rows; expected at least one task")
    return list(tasks.values())


def _describe(error: Exception) -> str:
    """Return what an environment's `task` raised, and where, in the place of what it would say about the row."""
    return f"cannot be read ({describe_error(error)}); expected fields as documented"


def _encodable(task: Task) -> Task:
    """Return the task. Raises ValueError if its words hold half a surrogate pair, which no tokenizer takes, or its data
    what JSON cannot hold, as which they travel."""
    try:
        task.instruction.encode("utf-8")
    except UnicodeEncodeError as error:
        place = task.instruction[max(0, error.start - 20) : error.start + 20]
        raise ValueError(f"task {task.key}: half a surrogate pair in {place!r}; expected whole characters") from None
    for name, value in task.data.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} holds what JSON cannot ({error}); expected texts, numbers, lists and objects"
            ) from None
    return task


def _report(heading: str, problems: list[str], left_out: bool) -> None:
    """Log the first problems if the rows are left out, else raise them as a ValueError."""
    hidden = len(problems) - SHOWN_PROBLEMS
    shown = problems[:SHOWN_PROBLEMS] + ([f"  and {hidden} more"] if hidden > 0 else [])
    if not left_out:
        raise ValueError("\n".join([f"{heading}:", *shown]))
    logger.warning("\n".join([f"{heading} and are left out:", *shown]))
