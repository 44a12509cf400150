"""Reads and writes the file of ACE's playbook, which the trainer and the rollout workers of all nodes share."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from leafe_verl.checkpoints import resumed_step
from leafe_verl.core.playbook import Playbook
from leafe_verl.files import replace_text

OWN = "playbook.json"
"""Name of a run's own playbook, beside its checkpoints; see ace.yaml."""


def writes_playbook(config: DictConfig) -> bool:
    """Return whether `leafe.playbook.path` is written, and begins without a file. Other methods than ACE read it."""
    mode: str = config.trainer.v1.trainer_mode
    return mode == "ace"


def read_playbook(path: str | None, *, begins_empty: bool = False) -> Playbook:
    """Return the playbook at `leafe.playbook.path`; an empty one for None.

    Raises ValueError, which names the setting, if the file is missing or does not hold a playbook.

    Args:
        begins_empty: Whether a missing file is an empty playbook, as it is for ACE until it writes the file.
    """
    if path is None or (begins_empty and not Path(path).exists()):
        return Playbook()
    if not Path(path).is_file():
        raise ValueError(
            f"no playbook at {path}; leafe.playbook.path names the file that recipes/ace_mbpp.sh wrote, or null"
        )
    try:
        return Playbook.from_json(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"leafe.playbook.path {path}: {error}") from None


def write_playbook(path: str, playbook: Playbook) -> None:
    """Replace the file in one step, so that a reader sees either the old playbook or the new one."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    replace_text(Path(path), playbook.to_json())


def forget_advice(config: DictConfig) -> None:
    """Remove the run's own playbook if the run begins anew, as it does without checkpoints.

    It plays the same tasks again, and must not know yet what it learned from them. A playbook that the user names
    stays.
    """
    checkpoints, path = Path(config.trainer.default_local_dir), Path(config.leafe.playbook.path)
    goes_on = config.trainer.resume_mode != "disable" and resumed_step(checkpoints) is not None
    if path == checkpoints / OWN and not goes_on:
        path.unlink(missing_ok=True)
