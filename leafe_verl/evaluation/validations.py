"""Keeps the outcomes of a run's validations by task, and tells whether two validations differ beyond chance.

verl's metrics hold means over all tasks. Whether a difference of means is more than chance depends on how much the
tasks differ, so the outcomes of each task are kept beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leafe_verl.core.text import counted
from leafe_verl.evaluation.bootstrap import Estimate, bootstrap
from leafe_verl.evaluation.pass_at_k import common_ks, pass_values
from leafe_verl.evaluation.recovery import TaskCounts, recovery_differences, recovery_estimates
from leafe_verl.evaluation.tables import percent
from leafe_verl.files import append_line

FILE = "validations.jsonl"
FEW_TASKS = 16
"""With fewer tasks the intervals of the bootstrap are too narrow for a verdict: with 8 tasks and no change, one in ten
of them lies off zero, and with 2 one in three."""
Outcomes = Mapping[str, Sequence[bool]]
"""Task -> whether each of its scored attempts succeeded."""


@dataclass(frozen=True)
class Validation:
    """What one validation found out about each task."""

    outcomes: Outcomes
    recovery: TaskCounts = field(default_factory=dict)
    """Empty where no turn has a verdict, and in the files of earlier versions."""

    def as_mapping(self) -> dict[str, Any]:
        """Return the validation as JSON takes it."""
        outcomes = {task: [int(solved) for solved in found] for task, found in self.outcomes.items()}
        return {"outcomes": outcomes, "recovery": {task: {**counts} for task, counts in self.recovery.items()}}

    @classmethod
    def from_mapping(cls, record: Mapping[str, Any]) -> Validation:
        """Return the validation of a line of the file."""
        outcomes = {task: [bool(solved) for solved in found] for task, found in record["outcomes"].items()}
        return cls(outcomes, record.get("recovery", {}))


def append_validation(folder: Path, step: int, validation: Validation) -> None:
    """Add a validation to the file in `folder`. Raises OSError if it cannot be written."""
    append_line(folder / FILE, json.dumps({"step": step, **validation.as_mapping()}))


def read_validations(folder: Path) -> dict[int, Validation]:
    """Return step -> validation, in the order of steps.

    A run that resumes, or begins anew in its folder, goes back in the steps: what was found after that step is of
    weights that the run no longer has.
    """
    found: dict[int, Validation] = {}
    path = folder / FILE
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
            step, validation = int(record["step"]), Validation.from_mapping(record)
        except (ValueError, KeyError, TypeError, AttributeError):  # half a line of a killed process
            continue
        found = {earlier: kept for earlier, kept in found.items() if earlier < step} | {step: validation}
    return found


@dataclass(frozen=True)
class Change:
    """How a figure changed from one validation to another, over the tasks that both tell it of."""

    first: float
    last: float
    """Its values, from 0 to 1."""
    difference: Estimate
    """The last without the first, paired over tasks, with its interval."""

    @property
    def beyond_chance(self) -> bool:
        return self.difference.low > 0 or self.difference.high < 0


def describe_change(validations: Mapping[int, Validation]) -> str:
    """Return what changed from the first validation to the last, a sentence in a line; empty for less than two."""
    if len(validations) < 2:
        return ""
    before, after = validations[min(validations)], validations[max(validations)]
    changes = estimate_changes(before, after)
    return "\n".join(_sentence(figure, change) for figure, change in changes.items())


def estimate_changes(before: Validation, after: Validation) -> dict[str, Change | None]:
    """Return figure -> its change: Pass@1, Pass@k of the most attempts, and recovery where a turn has failed.

    None stands for a Pass@k that no task tells both times.
    """
    ks = sorted({*common_ks(before.outcomes)} & {*common_ks(after.outcomes)})
    changes = {f"Pass@{k}": _pass_change(before.outcomes, after.outcomes, k) for k in sorted({*ks[:1], *ks[-1:]})}
    recovery = _recovery_change(before, after)
    return {**changes, "Recovery": recovery} if recovery else changes


def _pass_change(before: Outcomes, after: Outcomes, k: int) -> Change | None:
    first, last = pass_values(before, k), pass_values(after, k)
    shared = sorted(first.keys() & last.keys())
    if not shared:
        return None
    difference = bootstrap([last[task] - first[task] for task in shared])
    return Change(_mean(first, shared), _mean(last, shared), difference)


def _recovery_change(before: Validation, after: Validation) -> Change | None:
    shared = before.recovery.keys() & after.recovery.keys()
    first, last = ({task: each.recovery[task] for task in shared} for each in (before, after))
    difference = recovery_differences(last, first).get("recovery")
    if difference is None:
        return None
    was, is_now = (recovery_estimates(each)["recovery"].mean for each in (first, last))
    return Change(was, is_now, difference)


def _mean(values: Mapping[str, float], tasks: Sequence[str]) -> float:
    return sum(values[task] for task in tasks) / len(tasks)


def _sentence(figure: str, change: Change | None) -> str:
    if change is None:
        return f"{figure}: no task was scored both times."
    moved = change.difference
    if moved.tasks < FEW_TASKS:
        verdict = f"and fewer than {FEW_TASKS} tasks do not tell whether that is more than chance"
    else:
        verdict = "which is beyond chance" if change.beyond_chance else "which may be chance alone"
    interval = f"95 % interval over {counted(moved.tasks, 'task')}: {100 * moved.low:+.1f} to {100 * moved.high:+.1f}"
    values = f"{percent(change.first)} to {percent(change.last)} %"
    if not moved.mean:
        return f"{figure} stayed the same, {values} ({interval})."
    direction = f"{'rose' if moved.mean > 0 else 'fell'} by {100 * abs(moved.mean):.1f} points"
    return f"{figure} {direction}, from {values}, {verdict} ({interval})."
