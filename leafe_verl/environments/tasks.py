"""From rows of a data set to tasks, with everything that is wrong said at once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from leafe_verl.core.task import Task
from leafe_verl.environments import environment_class

logger = logging.getLogger(__name__)

SHOWN_PROBLEMS = 10


def parse_rows(
    rows: Iterable[tuple[int, Mapping[str, Any] | ValueError]],
    environment_name: str,
    source: str,
    *,
    leave_out: bool = False,
) -> list[Task]:
    """Return the task of each (line number, row); a ValueError in a row's place is what was wrong with its line.

    Raises ValueError that counts the rows that are no tasks, and shows the first ten; a row whose key came before is
    none. `leave_out`: these are logged instead, as long as a task remains. Raises ValueError for no rows, too.
    """
    parse = environment_class(environment_name).task
    tasks: dict[str, Task] = {}
    problems = []
    for number, row in rows:
        try:
            if isinstance(row, ValueError):
                raise row
            task = parse(row, default_key=str(number))
            if task.key in tasks:
                raise ValueError(f"the key {task.key!r} came before; expected one row for a key")
            tasks[task.key] = task
        except ValueError as error:
            problems.append(f"  row {number}: {error}")
    if problems:
        hidden = len(problems) - SHOWN_PROBLEMS
        shown = problems[:SHOWN_PROBLEMS] + ([f"  and {hidden} more"] if hidden > 0 else [])
        heading = f"{source}: {len(problems)} rows are no tasks of {environment_name!r}"
        if not (leave_out and tasks):
            raise ValueError("\n".join([f"{heading}:", *shown]))
        logger.warning("\n".join([f"{heading} and are left out:", *shown]))
    if not tasks:
        raise ValueError(f"{source} holds no rows; expected at least one task")
    return list(tasks.values())
