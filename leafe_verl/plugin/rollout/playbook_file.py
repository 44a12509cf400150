"""ACE's playbook on disk, where trainer and rollout workers of all nodes find it."""

from __future__ import annotations

import os
from pathlib import Path

from leafe_verl.core.playbook import Playbook


def read_playbook(path: str | None) -> Playbook:
    """Return the playbook at `leafe.playbook.path`, an empty one where there is none yet. Raises ValueError."""
    if path is None or not Path(path).exists():
        return Playbook()
    try:
        return Playbook.from_json(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"leafe.playbook.path {path}: {error}") from None


def write_playbook(path: str, playbook: Playbook) -> None:
    """Replace the file whole: a reader sees the old advice or the new."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    written = Path(f"{path}.new")
    written.write_text(playbook.to_json(), encoding="utf-8")
    os.replace(written, path)
