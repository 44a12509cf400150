"""Reads the JSON lines in which evaluations kept their trees before they wrote Arrow files, as rows of the schema.

An evaluation's folder may hold `attempts-*.jsonl` (version 1, `"schema": 1`) beside newer files. A line is a tree:

    key, environment, seed      of its task and run
    attempts        {branch, outcome, error, steps, ...}; a branch is {parent, step, depth, parsed, experience}, a step
                    is {action, observation, reward, error, tokens}
    reflections     {attempt, step, experience, parsed, text, tokens}
    counts          counts of core.statistics

Prompts and tokens were not kept: the first history of such a tree has no messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from leafe_verl.trees.errors import DamagedFile
from leafe_verl.trees.rows import Row, from_row, summarize
from leafe_verl.trees.text import escape, map_text

PATTERN = "attempts-*.jsonl"
VERSION = 1


def is_legacy(path: Path) -> bool:
    """Return whether a file of a store holds JSON lines."""
    return path.suffix == ".jsonl"


def read_lines(path: Path) -> Iterator[tuple[int, Row]]:
    """Read a file's trees as rows, each with the byte at which its line begins.

    Raises DamagedFile if the last line was cut short, and ValueError for any other line that is not a tree.
    """
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                raise DamagedFile(path, number - 1, offset, "the last line was cut short")
            try:
                yield offset, _to_row(json.loads(line), _collected_at(path, offset))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: no record of schema {VERSION} ({error!r})") from None
            offset += len(line)


def read_line(path: Path, offset: int) -> Row:
    """Read the tree whose line begins at a byte."""
    with path.open("rb") as file:
        file.seek(offset)
        return _to_row(json.loads(file.readline()), _collected_at(path, offset))


def _collected_at(path: Path, offset: int) -> datetime:
    """Return a time that tells the trees of a task apart. The lines hold none, so it is made from the file's time."""
    written = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
    return written + timedelta(microseconds=offset)


def _to_row(line: Mapping[str, Any], collected_at: datetime) -> Row:
    if line["schema"] != VERSION:
        raise ValueError(f"it is of schema {line['schema']!r}; read it with the version that wrote it")
    reflections = [_reflection(each) for each in line["reflections"]]
    row = {
        "seed": line["seed"],
        "collected_at": collected_at,
        "has_tokens": False,
        "task_key": line["key"],
        "environment": line["environment"],
        "instruction": "",
        "task_data": "{}",
        "attempts": [_attempt(each, reflections) for each in line["attempts"]],
        "reflections": reflections,
        "counts": json.dumps(line["counts"]),
    }
    escaped: Row = map_text(row, escape)
    tokens = {"sampled_tokens": line["counts"]["sampled_tokens"]}
    return {"run": None, "step": None, **escaped, **summarize(from_row(escaped)), **tokens}


def _attempt(line: Mapping[str, Any], reflections: list[Row]) -> Row:
    branch = _branch(line["branch"], reflections) if line["branch"] else None
    first = branch["step"] if branch else 1
    return {
        "branch": branch,
        "outcome": line["outcome"],
        "error": line["error"],
        "replayed_steps": 0,
        "steps": [_step(t, step) for t, step in enumerate(line["steps"], start=first)],
    }


def _step(t: int, line: Mapping[str, Any]) -> Row:
    return {
        "history": {"shared_messages": 2 * (t - 1), "new_messages": []},  # an action and an observation for each step
        "action": {"text": line["action"], "num_tokens": line["tokens"], "complete": True},
        "observation": line["observation"],
        "reward": line["reward"],
        "error": line["error"],
        "command": None,
    }


def _branch(line: Mapping[str, Any], reflections: list[Row]) -> Row:
    """Return a branch with the place of its reflection, which the line does not hold: it is found by its text."""
    wanted = {"attempt": line["parent"], "experience": line["experience"], "parsed": line["parsed"]}
    place = next((i for i, each in enumerate(reflections) if wanted.items() <= each.items()), len(reflections))
    if place == len(reflections):
        reflections.append(_reflection({**wanted, "step": line["step"], "text": "", "tokens": 0}))
    return {"parent": line["parent"], "step": line["step"], "depth": line["depth"], "reflection": place}


def _reflection(line: Mapping[str, Any]) -> Row:
    return {
        "attempt": line["attempt"],
        "step": line["step"],
        "experience": line["experience"],
        "parsed": line["parsed"],
        "text": line["text"],
        "num_tokens": line["tokens"],
        "num_steps": 0,
    }
