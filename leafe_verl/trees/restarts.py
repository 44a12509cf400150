"""When runs went back to an earlier step, so that the trees of what they gave up are not taken for theirs.

A run is known by its name, and its trees by their training step. One that is sent back, by verl's
`trainer.resume_mode=resume_path` or `disable`, has trees of later steps that other weights or settings collected.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from leafe_verl.files import append_line
from leafe_verl.trees.rows import Row

FILE = "restarts.jsonl"
"""Beside a store's trees: a line for each time that a run was sent back."""


def record_restart(store: Path, run: str, step: int) -> None:
    """Note that a run goes on after `step` now, whatever it has collected since."""
    store.mkdir(parents=True, exist_ok=True)
    append_line(store / FILE, json.dumps({"run": run, "step": step, "at": datetime.now(UTC).isoformat()}))


def abandoned_by(store: str | os.PathLike[str]) -> Callable[[Row], bool]:
    """Return a predicate of rows with run, step and collected_at: whether the tree's run has given it up since."""
    restarts = [*_read(Path(store) / FILE)]

    def is_abandoned(row: Row) -> bool:
        return any(
            row["run"] == run and (row["step"] or 0) > step and row["collected_at"] and row["collected_at"] < at
            for run, step, at in restarts
        )

    return is_abandoned


def _read(path: Path) -> Iterator[tuple[str, int, datetime]]:
    lines: Iterable[str] = path.read_text(encoding="utf-8").splitlines() if path.is_file() else ()
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):  # a line that a kill has torn
            read: dict[str, Any] = json.loads(line)
            yield str(read["run"]), int(read["step"]), datetime.fromisoformat(read["at"])
