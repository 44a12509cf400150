"""Reading tasks from a data set's own JSON, from verl's parquet files, or from a data set on the Hugging Face hub."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from leafe_verl.core.task import Task
from leafe_verl.environments import environment_class
from leafe_verl.environments.tasks import parse_rows
from leafe_verl.json_rows import Rows, is_json, read_json_rows, refuse_mistaken

HUB = "hub:"
UNREAD = ("solutions", "incorrect_solutions")
"""Columns of CodeContests with hundreds of programs per row. No task uses them, and reading them is slow."""
SEVERAL = {*",[] "}
"""Characters of what is meant as several files, and is one."""
FORMS = "a .jsonl or .json file (also .gz), a .parquet file"
KEEP, LEAVE_OUT = "keep", "leave_out"
"""What becomes of tasks with several right answers."""

logger = logging.getLogger(__name__)


def list_sources(files: str | Sequence[str]) -> list[str]:
    """Return the task files that `data.train_files` or `data.val_files` names, which verl takes as one or a list."""
    return [*files] if isinstance(files, Sequence) and not isinstance(files, str) else [files]


def read_tasks(source: str, environment: str, several_answers: str = KEEP) -> list[Task]:
    """Read the tasks in `source` for the environment of that registered name.

    `source` is a path ending in .jsonl, .json (both also with .gz) or .parquet, or
    `hub:<repository>/<configuration>/<split>`, such as `hub:google-research-datasets/mbpp/full/train`. Raises
    ValueError that lists the problems, row by row. Rows of a data set on the hub, which the user cannot fix, are logged
    and left out instead. `several_answers`: whether to KEEP or LEAVE_OUT tasks of which the environment recognises that
    they have several right answers. They are counted in the log.
    """
    rows = _read_rows(source)
    tasks = parse_rows(rows.numbered, environment, source, leave_out=source.startswith(HUB), unit=rows.unit)
    recognise = getattr(environment_class(environment), "several_answers", None)
    return _with_one_answer(tasks, recognise, source, several_answers) if recognise else tasks


def _with_one_answer(
    tasks: list[Task], recognise: Callable[[Task], str | None], source: str, several_answers: str
) -> list[Task]:
    """Count the tasks with several right answers, and leave them out if asked to. Raises ValueError if none is left."""
    found = {task.key: reason for task in tasks if (reason := recognise(task)) is not None}
    if not found:
        return tasks
    first, reason = next(iter(found.items()))
    what = f"{source}: {len(found)} of {len(tasks)} tasks have several right answers, of which one is known"
    if several_answers == KEEP:
        fix = f"leafe.environment.several_answers={LEAVE_OUT} leaves them out"
        _warn_once(f"{what}, so that right programs may count as wrong; {fix} (task {first}: {reason})")
        return tasks
    if len(found) == len(tasks):
        raise ValueError(f"{what}, and none is left; set leafe.environment.several_answers={KEEP}")
    _warn_once(f"{what}, and are left out (task {first}: {reason})")
    return [task for task in tasks if task.key not in found]


@functools.cache
def _warn_once(message: str) -> None:
    """Log a warning, which a process that reads its task files several times does not repeat."""
    logger.warning(message)


def _read_rows(source: str) -> Rows:
    if source.startswith(HUB):
        return Rows(enumerate(hub_rows(source), start=1))
    path = Path(source).expanduser()
    if not path.is_file():
        what = "is a folder; expected a file in it:" if path.is_dir() else "does not exist; expected"
        several = (
            "; several files are 'data.train_files=[A,B]' or 'data.val_files=[A,B]'" if SEVERAL & {*source} else ""
        )
        raise ValueError(f"{source} {what} {FORMS}, or {HUB}REPOSITORY/...{several}")
    refuse_mistaken(path)
    if path.suffix.lower() == ".parquet":
        return Rows(enumerate(_parquet_rows(path), start=1))
    if is_json(path):
        return read_json_rows(path)
    raise ValueError(f"{source} has an unknown ending; expected {FORMS}")


def _parquet_rows(path: Path) -> list[Mapping[str, Any]]:
    import pyarrow.parquet

    try:
        rows: list[Mapping[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} is no whole parquet file ({error}); copy or download it anew") from None
    return [{name: _decode(value) for name, value in row.items()} for row in rows]


def _decode(value: Any) -> Any:
    """Return bytes as text, which some writers of parquet do not mark as such. Bytes that are no text stay."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, dict):
        return {key: _decode(each) for key, each in value.items()}
    return [_decode(each) for each in value] if isinstance(value, list) else value


def hub_rows(source: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a data set on the hub. Raises ValueError if it cannot be loaded."""
    parts = source.removeprefix(HUB).split("/")
    if len(parts) != 4:
        raise ValueError(f"{source} does not name a data set on the hub; expected {HUB}OWNER/NAME/CONFIGURATION/SPLIT")
    import datasets

    try:
        rows = datasets.load_dataset("/".join(parts[:2]), parts[2], split=parts[3])
    except Exception as error:  # of many kinds: no network, no such data set, a broken file in the cache
        raise ValueError(
            f"{source} cannot be loaded ({type(error).__name__}: {error}); expected {HUB}OWNER/NAME/CONFIGURATION/"
            "SPLIT of a data set that this machine reaches or has in its cache, or the path of a task file"
        ) from error
    yield from rows.remove_columns([name for name in rows.column_names if name in UNREAD])
