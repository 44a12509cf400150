"""One process at a time runs in a run's folder. The system gives the lock back however that process ends."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from leafe_verl.activity import ENDED, read_activity
from leafe_verl.activity import FILE as ACTIVITY

FILE = "lock"


def hold(folder: Path) -> bool:
    """Hold a run's folder until this process ends. Return False if another process holds it.

    A file system without locks gives none, which stops nobody. Raises OSError if the folder cannot be written.
    """
    descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o666)  # stays open, and is not inherited by children
    return not _is_taken(descriptor)


def find_unfinished(run_dir: Path) -> Path | None:
    """Return the latest run beside `run_dir`, if it has not come to its end and no process is at work on it.

    A run that was refused, or died before it kept anything, has nothing to go on with.
    """
    beside = [file.parent for file in run_dir.parent.glob(f"*/{ACTIVITY}") if file.parent != run_dir]
    latest = max(beside, key=lambda folder: (folder / ACTIVITY).stat().st_mtime, default=None)
    activity = read_activity(latest) if latest else None
    if latest is None or activity is None or activity.name == ENDED or not (latest / "checkpoints").is_dir():
        return None
    with suppress(OSError), (latest / FILE).open("r+") as lock:  # a run of an earlier version has none
        return None if _is_taken(lock.fileno()) else latest
    return None


def _is_taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
