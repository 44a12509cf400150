"""Draws disjoint task files from one file: tasks to train on, tasks to choose settings by, and held-out tasks."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

from leafe_verl.json_rows import is_json, read_json_rows


def draw_splits(source: Path, sizes: Mapping[str, int], seed: int, folder: Path) -> dict[str, Path]:
    """Write FOLDER/NAME.jsonl with as many rows of `source` as `sizes` says, and return the files by their names.

    Rows are copied as they are, with `task_id` where they have none. Of rows with one text, the first counts. Files
    that are there already stay. Raises ValueError if the source holds too few tasks, or if others were drawn before.
    """
    if not is_json(source) or not source.is_file():
        raise ValueError(f"{source} is no .jsonl or .json file, from which tasks could be drawn; MBPP names one")
    rows = _distinct_rows(source)
    if sum(sizes.values()) > len(rows):
        wanted = ", ".join(f"{number} for {name}" for name, number in sizes.items())
        raise ValueError(
            f"{source} holds {len(rows)} different tasks, and {wanted} are asked for; expected fewer in TRAIN_TASKS, "
            "DEV_TASKS or TASKS"
        )
    random.Random(seed).shuffle(rows)
    folder.mkdir(parents=True, exist_ok=True)
    files, begin = {}, 0
    for name, number in sizes.items():
        files[name] = folder / f"{name}.jsonl"
        _keep(files[name], "".join(f"{row}\n" for row in rows[begin : begin + number]))
        begin += number
    return files


def _distinct_rows(source: Path) -> list[str]:
    rows: dict[str, str] = {}
    found = read_json_rows(source)
    for number, row in found.numbered:
        if isinstance(row, ValueError):
            raise ValueError(f"{source}, {found.unit} {number}: {row}")
        text = str(row.get("text") or row.get("prompt") or json.dumps(row))
        rows.setdefault(text, json.dumps({"task_id": number, **row}))
    return list(rows.values())


def _keep(path: Path, text: str) -> None:
    """Write the file, or raise ValueError if it is there and holds something else."""
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    elif path.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{path} holds other tasks than would be drawn now; expected the same MBPP, TRAIN_TASKS, DEV_TASKS, TASKS "
            "and SPLIT_SEED as before, or another RUN_DIR"
        )
