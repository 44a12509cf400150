"""From rows of a data set to tasks, with everything that is wrong said at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from leafe_verl.core.task import Task
from leafe_verl.environments import environment_class

SHOWN_PROBLEMS = 10


def parse_rows(
    rows: Iterable[tuple[int, Mapping[str, Any] | ValueError]], environment_name: str, source: str
) -> list[Task]:
    """Return the task of each (line number, row); a ValueError in a row's place is what was wrong with its line.

    Raises ValueError that counts the rows that are no tasks, and shows the first ten; also for no rows, and for a
    key that comes twice.
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
        heading = f"{source}: {len(problems)} rows are no tasks of {environment_name!r}:"
        raise ValueError("\n".join([heading, *shown]))
    if not tasks:
        raise ValueError(f"{source} holds no rows; expected at least one task")
    return list(tasks.values())
