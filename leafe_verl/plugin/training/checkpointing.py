"""Decides when to save a checkpoint, which one is the best, and which ones are removed. Imports nothing of verl."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from leafe_verl.checkpoints import STEP, is_whole, read_tracker, saved_steps
from leafe_verl.files import replace_text
from leafe_verl.plugin.settings import CheckpointSettings

BEST_LINK = "best"
"""Relative symbolic link in the checkpoint folder, to the best checkpoint."""
BEST_FILE = "best.json"
"""The record of the best checkpoint, a `BestCheckpoint`, in the checkpoint folder."""
REMOVED = "removed_"
"""Prefix of a checkpoint that is being removed, so that an interrupted removal never looks like a checkpoint."""


def validation_interval(total_steps: int, validations: int) -> int:
    """Return the steps between validations: at least 2, so that a run of 3 steps is validated at its end alone. verl
    does that in any case."""
    return math.ceil(total_steps / max(1, min(validations, total_steps // 2)))


@dataclass(frozen=True)
class Cadence:
    """The steps of a run after which a checkpoint is written, in addition to those of verl's own `save_freq`."""

    every_seconds: float | None
    """Seconds between checkpoints; None: time saves nothing."""
    validation_steps: int | None
    """Steps between validations, each of which saves so that the best can be kept; None: validation saves nothing."""

    @classmethod
    def from_settings(cls, settings: CheckpointSettings, *, save_freq: int, test_freq: int) -> Cadence:
        """Build from settings and from verl's `save_freq` and `test_freq`, which turn saving off when not positive."""
        if save_freq <= 0:
            return cls(None, None)
        return cls(
            every_seconds=None if settings.every_minutes is None else 60 * settings.every_minutes,
            validation_steps=test_freq if settings.metric is not None and test_freq > 0 else None,
        )

    def should_save(self, step: int, now: float, last_saved: float) -> bool:
        """Whether to save after `step`; both times are in seconds, of one clock."""
        by_time = self.every_seconds is not None and now - last_saved >= self.every_seconds
        by_validation = self.validation_steps is not None and step % self.validation_steps == 0
        return by_time or by_validation


@dataclass(frozen=True)
class BestCheckpoint:
    """The checkpoint with the highest validation metric so far."""

    step: int
    metric: str
    """Name of the metric, or the pattern whose matches were averaged."""
    value: float
    folder: str
    """Name of the checkpoint within the checkpoint folder, global_step_N."""

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any], metric: str, step: int) -> BestCheckpoint | None:
        """Return the record of `step`, None where no finite metric matches."""
        values = [float(value) for name, value in metrics.items() if fnmatchcase(name, metric)]
        if not values or not all(map(math.isfinite, values)):
            return None
        return cls(step, metric, sum(values) / len(values), f"{STEP}{step}")

    def improves_on(self, other: BestCheckpoint | None) -> bool:
        """Whether this one takes the place of `other`; on a tie the earlier one stays.

        A new value of the same step replaces the old one, and a value of another metric cannot be compared.
        """
        return other is None or self.step == other.step or self.metric != other.metric or self.value > other.value


@dataclass(frozen=True)
class CheckpointFolder:
    """RUN_DIR/checkpoints, as verl writes it: global_step_N and the file that names the latest of them."""

    path: Path

    def is_whole(self, step: int) -> bool:
        """Whether the checkpoint was written to its end."""
        return is_whole(self.path / f"{STEP}{step}")

    def latest(self) -> int | None:
        """Return the training step that a resumed run starts from; None without one."""
        return read_tracker(self.path)

    def read_best(self) -> BestCheckpoint | None:
        """Return the best checkpoint; None where none is named, or where it is gone."""
        try:
            best = BestCheckpoint(**json.loads((self.path / BEST_FILE).read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return best if self.is_whole(best.step) else None

    def write_best(self, best: BestCheckpoint) -> None:
        """Name the best checkpoint. A reader sees the old name or the new one, never half of either."""
        replace_text(self.path / BEST_FILE, json.dumps(asdict(best), indent=1) + "\n")
        link = self.path / f"{BEST_LINK}.new"
        with suppress(OSError):  # a file system without symbolic links has the file alone
            link.unlink(missing_ok=True)
            link.symlink_to(best.folder, target_is_directory=True)
            os.replace(link, self.path / BEST_LINK)

    def forget_best_after(self, step: int) -> None:
        """Drop the name of a best checkpoint later than `step`, which a run that begins there did not reach."""
        best = self.read_best()
        if best is None or best.step > step:
            (self.path / BEST_FILE).unlink(missing_ok=True)
            (self.path / BEST_LINK).unlink(missing_ok=True)

    def prune(self, keep: int, protect_every: int | None) -> None:
        """Remove checkpoints older than the latest one, except the newest `keep`, the best, and protected steps.

        Steps that `protect_every` divides are protected. Nothing is removed before the latest checkpoint is whole.
        Steps after the latest one belong to an earlier run that was rolled back, and stay.
        """
        latest = self.latest()
        if latest is None or not self.is_whole(latest):
            return
        self._clear_removed()
        steps = [step for step in saved_steps(self.path) if step <= latest]
        best = self.read_best()
        kept = {*[step for step in steps if self.is_whole(step)][-keep:], best.step if best else None}
        for step in steps:
            if step not in kept and not (protect_every and step % protect_every == 0):
                (self.path / f"{STEP}{step}").rename(self.path / f"{REMOVED}{STEP}{step}")
        self._clear_removed()

    def _clear_removed(self) -> None:
        for folder in self.path.glob(f"{REMOVED}{STEP}*"):
            shutil.rmtree(folder, ignore_errors=True)
