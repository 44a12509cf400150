"""What is different in a job of Ray: the working folder is one of Ray's own, and goes with the cluster."""

from __future__ import annotations

import os
from pathlib import Path

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that Ray sets for the command of `ray job submit`."""
RAYS_OWN_FOLDER = "runtime_resources"
"""Folder of a Ray session below which the working folders of jobs are."""

RUN_DIR = "RUN_DIR (of an evaluation: --out)"


def require_named(folder: str | None) -> None:
    """Raise ValueError if this is a job of Ray and RUN_DIR is missing (None) or relative."""
    if JOB_VARIABLE in os.environ and not (folder and Path(folder).expanduser().is_absolute()):
        raise ValueError(_describe(folder))


def require_kept(path: str, setting: str = RUN_DIR) -> None:
    """Raise ValueError if this is a job of Ray and what a run writes is relative, or in a folder that Ray removes.

    Args:
        setting: What named the path.
    """
    place = Path(path).expanduser()
    if JOB_VARIABLE in os.environ and (not place.is_absolute() or RAYS_OWN_FOLDER in place.parts):
        raise ValueError(_describe(path, setting))


def _describe(path: str | None, setting: str = RUN_DIR) -> str:
    came = f"{setting} is {path}" if path else "no RUN_DIR is given"
    if setting != RUN_DIR:
        return (
            f"{came}, and this is a job of Ray, whose working folder {Path.cwd()} Ray removes; expected an absolute "
            f"path that every node sees in {setting}"
        )
    return (
        f"{came}, and this is a job of Ray, whose working folder {Path.cwd()} Ray removes; expected an absolute folder "
        "that every node sees, as in\n"
        "  ray job submit --working-dir . -- env RUN_DIR=/shared/runs/mine bash recipes/leafe_mbpp.sh"
    )
