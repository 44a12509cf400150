"""Reads and writes the file of ACE's playbook, which the trainer and the rollout workers of all nodes share."""

from __future__ import annotations

import os
from pathlib import Path

from leafe_verl.core.playbook import Playbook


def read_playbook(path: str | None) -> Playbook:
    """Return the playbook at `leafe.playbook.path`, or an empty one if there is no file yet.

    Raises ValueError, which names the setting, if the file does not hold a playbook.
    """
    if path is None or not Path(path).exists():
        return Playbook()
    try:
        return Playbook.from_json(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"leafe.playbook.path {path}: {error}") from None


def write_playbook(path: str, playbook: Playbook) -> None:
    """Replace the file in one step, so that a reader sees either the old playbook or the new one."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    written = Path(f"{path}.new")
    written.write_text(playbook.to_json(), encoding="utf-8")
    os.replace(written, path)
