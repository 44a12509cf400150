"""What a run is doing at this moment: one small file in RUN_DIR, which the run replaces and consoles read.

The trainer writes it, a training worker counts its updates in it, and the launcher says how the run ended.
"""

from __future__ import annotations

import dataclasses
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from leafe_verl.files import replace_text

FILE = "activity.json"
ENDED, FAILED, STOPPED = "ended", "failed", "stopped"
"""Names of the last activity: all went well, an error ended the run, or someone stopped it."""
WRITE_SECONDS = 0.5
"""Shortest time between two writes of a count."""


@dataclass(frozen=True)
class Activity:
    """One thing that a run does, and how much of it is done."""

    name: str
    """`starting`, `validating`, `collecting`, `distilling`, `training`, `saving`, `sending weights`, or how the run
    ended."""
    step: int = 0
    """Training step; 0 before the first one."""
    steps: int | None = None
    """Number of training steps of the run; None if it is not known yet."""
    done: int = 0
    total: int | None = None
    """How much there is to do; None if it cannot be counted."""
    unit: str = ""
    """What `done` and `total` count, in the plural."""
    detail: str = ""
    """What a reader should know of it, as a phrase."""
    began: float = 0.0
    """When it began, in seconds since the epoch."""
    step_began: float = 0.0
    """When its training step began, in seconds since the epoch."""
    first_done: int = 0
    """How much was done when it was counted for the first time."""
    first_counted: float = 0.0
    """When that was, in seconds since the epoch. What comes before it is slower: processes warm up."""

    @property
    def over(self) -> bool:
        """Whether the run has come to its end, be it a good one or not."""
        return self.name in (ENDED, FAILED, STOPPED)

    def seconds_left(self, now: float) -> float | None:
        """Estimate the seconds until it is done, by what was done since the first count.

        None before a twentieth of it is done, before the second count, and if it is not counted.
        """
        if not self.total or self.done <= self.first_done or self.done < self.total / 20:
            return None
        return (now - self.first_counted) * (self.total - self.done) / (self.done - self.first_done)


def read_activity(folder: Path) -> Activity | None:
    """Return the activity of the run in `folder`; None if there is none, or one that another version wrote."""
    try:
        return Activity(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


class ActivityFile:
    """Writes the activity of a run. A disk that does not take it must not end the run, so that is no error."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._activity = read_activity(folder) or Activity("starting")
        self._written = 0.0

    def begin(self, name: str, *, step: int, total: int | None = None, unit: str = "", detail: str = "") -> None:
        """Say what the run does from now on."""
        now = time.time()
        began = self._activity.step_began if step == self._activity.step else now
        steps = self._activity.steps
        self._activity = Activity(name, step, steps, 0, total, unit, detail, began=now, step_began=began)
        self._write()

    def plan(self, steps: int) -> None:
        """Say how many training steps the run has."""
        self._activity = dataclasses.replace(self._activity, steps=steps)
        self._write()

    def advance(self, done: int) -> None:
        """Say how much is done by now."""
        if done != self._activity.done:
            if not self._activity.done:
                self._activity = dataclasses.replace(self._activity, first_done=done, first_counted=time.time())
            self._activity = dataclasses.replace(self._activity, done=done)
            if time.monotonic() - self._written > WRITE_SECONDS or done == self._activity.total:
                self._write()

    def end(self, how: str) -> None:
        """Say how the run ended: ENDED, FAILED or STOPPED."""
        self._activity = dataclasses.replace(self._activity, name=how, done=0, total=None, detail="", began=time.time())
        self._write()

    def start(self) -> None:
        """Say that the run starts, whatever an earlier process of it did last."""
        self._activity = Activity("starting", began=time.time(), step_began=time.time())
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        with suppress(OSError):
            replace_text(self._folder / FILE, json.dumps(dataclasses.asdict(self._activity)), durable=False)
