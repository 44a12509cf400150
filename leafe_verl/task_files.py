"""Reading tasks from a data set's own JSONL, from verl's parquet files, or from a data set on the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from leafe_verl.core.task import Task
from leafe_verl.environments.tasks import parse_rows

HUB = "hub:"
UNREAD = ("solutions", "incorrect_solutions")
"""Columns of CodeContests with hundreds of programs per row. No task uses them, and reading them is slow."""


def read_tasks(source: str, environment: str) -> list[Task]:
    """Read the tasks in `source` for the environment of that registered name.

    `source` is a path ending in .jsonl, .json or .parquet, or `hub:<repository>/<configuration>/<split>`, such as
    `hub:google-research-datasets/mbpp/full/train`. Raises ValueError that lists the problems, row by row. Rows of a
    data set on the hub, which the user cannot fix, are logged and left out instead.
    """
    return parse_rows(_numbered_rows(source), environment, source, leave_out=source.startswith(HUB))


def _numbered_rows(source: str) -> Iterator[tuple[int, Mapping[str, Any] | ValueError]]:
    """Yield pairs of a row's number, counted from 1, and the row or a ValueError that says why it cannot be read."""
    if source.startswith(HUB):
        yield from enumerate(_hub_rows(source), start=1)
        return
    path = Path(source).expanduser()
    if not path.is_file():
        raise ValueError(f"{source} does not exist; expected a .jsonl, .json or .parquet file, or {HUB}REPOSITORY/...")
    if path.suffix == ".parquet":
        import pyarrow.parquet

        yield from enumerate(pyarrow.parquet.read_table(path).to_pylist(), start=1)
    elif path.suffix in (".jsonl", ".json"):
        with path.open(encoding="utf-8") as lines:
            yield from ((n, _json_row(line)) for n, line in enumerate(lines, start=1) if line.strip())
    else:
        raise ValueError(f"{source} has an unknown ending; expected .jsonl, .json (one row per line) or .parquet")


def _json_row(line: str) -> Mapping[str, Any] | ValueError:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return ValueError(f"not JSON ({error}): {line.strip()[:80]!r}")
    return row if isinstance(row, dict) else ValueError(f"a JSON {type(row).__name__}; expected an object")


def _hub_rows(source: str) -> Iterator[Mapping[str, Any]]:
    parts = source.removeprefix(HUB).split("/")
    if len(parts) != 4:
        raise ValueError(f"{source} does not name a data set on the hub; expected {HUB}OWNER/NAME/CONFIGURATION/SPLIT")
    import datasets

    rows = datasets.load_dataset("/".join(parts[:2]), parts[2], split=parts[3])
    yield from rows.remove_columns([name for name in rows.column_names if name in UNREAD])
