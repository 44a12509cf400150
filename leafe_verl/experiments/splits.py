"""Draws disjoint task files from one file: tasks to train on, tasks to choose settings by, and held-out tasks."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

from leafe_verl.files import replace_text
from leafe_verl.json_rows import Rows, is_json, read_json_rows
from leafe_verl.task_files import HUB, hub_rows

EXPECTED = (
    "a .jsonl or .json file in MBPP, such as mbpp.jsonl of google-research on GitHub, or "
    f"{HUB}OWNER/NAME/CONFIGURATION/SPLIT"
)


def draw_splits(source: Path | str, sizes: Mapping[str, int], seed: int, folder: Path) -> dict[str, Path]:
    """Write FOLDER/NAME.jsonl with as many rows of `source` as `sizes` says, and return the files by their names.

    `source` is a file, or the name of a data set on the hub as TRAIN_FILES takes it.
    Rows are copied as they are, with `task_id` where they have none. Of rows with one text, the first counts. Files
    that are there already stay. Raises ValueError if the source holds too few tasks, or if others were drawn before.
    """
    rows = _distinct_rows(source)
    if sum(sizes.values()) > len(rows):
        wanted = ", ".join(f"{number} for {name}" for name, number in sizes.items())
        raise ValueError(
            f"{source} holds {len(rows)} different tasks, and {wanted} are asked for; expected fewer in TRAIN_TASKS, "
            f"DEV_TASKS or TASKS, or {EXPECTED}"
        )
    random.Random(seed).shuffle(rows)
    folder.mkdir(parents=True, exist_ok=True)
    files, begin = {}, 0
    for name, number in sizes.items():
        files[name] = folder / f"{name}.jsonl"
        _keep(files[name], "".join(f"{row}\n" for row in rows[begin : begin + number]))
        begin += number
    return files


def _distinct_rows(source: Path | str) -> list[str]:
    rows: dict[str, str] = {}
    found = _read_rows(source)
    for number, row in found.numbered:
        if isinstance(row, ValueError):
            raise ValueError(f"{source}, {found.unit} {number}: {row}")
        text = str(row.get("text") or row.get("prompt") or json.dumps(row))
        rows.setdefault(text, json.dumps({"task_id": number, **row}))
    return list(rows.values())


def _read_rows(source: Path | str) -> Rows:
    if str(source).startswith(HUB):
        return Rows(enumerate(hub_rows(str(source)), start=1))
    path = Path(source).expanduser()
    if not is_json(path) or not path.is_file():
        raise ValueError(f"{source} is no .jsonl or .json file, from which tasks could be drawn; expected {EXPECTED}")
    return read_json_rows(path)


def _keep(path: Path, text: str) -> None:
    """Write the file, or raise ValueError if it is there and holds something else."""
    if not path.exists():
        replace_text(path, text)
    elif path.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{path} holds other tasks than would be drawn now; expected the same MBPP, TRAIN_TASKS, DEV_TASKS, TASKS "
            "and SPLIT_SEED as before, or another RUN_DIR"
        )
