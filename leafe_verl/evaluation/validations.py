"""Keeps the outcomes of a run's validations by task, and tells whether two validations differ beyond chance.

verl's metrics hold means over all tasks. Whether a difference of means is more than chance depends on how much the
tasks differ, so the outcomes of each task are kept beside them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leafe_verl.evaluation.bootstrap import Estimate, bootstrap
from leafe_verl.evaluation.pass_at_k import ks_up_to
from leafe_verl.evaluation.recovery import TaskCounts, recovery_differences, recovery_estimates
from leafe_verl.evaluation.report import pass_values
from leafe_verl.evaluation.tables import percent

FILE = "validations.jsonl"
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
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **validation.as_mapping()}) + "\n")


def read_validations(folder: Path) -> dict[int, Validation]:
    """Return step -> validation, in the order of steps. A step that a resumed run repeats counts as it was last."""
    found: dict[int, Validation] = {}
    path = folder / FILE
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
            found[int(record["step"])] = Validation.from_mapping(record)
        except (ValueError, KeyError, TypeError, AttributeError):  # a killed process cut this line short
            continue
    return dict(sorted(found.items()))


def describe_change(validations: Mapping[int, Validation]) -> str:
    """Return what changed from the first validation to the last, a sentence in a line; empty for less than two."""
    if len(validations) < 2:
        return ""
    before, after = validations[min(validations)], validations[max(validations)]
    return "\n".join([*_pass_sentences(before.outcomes, after.outcomes), *_recovery_sentence(before, after)])


def _pass_sentences(before: Outcomes, after: Outcomes) -> Iterator[str]:
    most = min(max(map(len, each.values()), default=0) for each in (before, after))
    ks = ks_up_to(most) if most else []
    for k in sorted({ks[0], ks[-1]}) if ks else ():
        first, last = pass_values(before, k), pass_values(after, k)
        shared = sorted(first.keys() & last.keys())
        if shared:
            change = bootstrap([last[task] - first[task] for task in shared])
            yield _sentence(f"Pass@{k}", _mean(first, shared), _mean(last, shared), change)
        else:
            yield f"Pass@{k}: no task was scored both times."


def _recovery_sentence(before: Validation, after: Validation) -> Iterator[str]:
    shared = before.recovery.keys() & after.recovery.keys()
    first, last = ({task: each.recovery[task] for task in shared} for each in (before, after))
    if change := recovery_differences(last, first).get("recovery"):
        was, is_now = (recovery_estimates(each)["recovery"].mean for each in (first, last))
        yield _sentence("Recovery", was, is_now, change)


def _mean(values: Mapping[str, float], tasks: Sequence[str]) -> float:
    return sum(values[task] for task in tasks) / len(tasks)


def _sentence(name: str, first: float, last: float, change: Estimate) -> str:
    moved = f"{'rose' if change.mean > 0 else 'fell'} by {100 * abs(change.mean):.1f} points"
    beyond = change.low > 0 or change.high < 0
    verdict = "which is beyond chance" if beyond else "which may be chance alone"
    interval = f"95 % interval over {change.tasks} tasks: {100 * change.low:+.1f} to {100 * change.high:+.1f}"
    values = f"{percent(first)} to {percent(last)} %"
    if not change.mean:
        return f"{name} stayed the same, {values} ({interval})."
    return f"{name} {moved}, from {values}, {verdict} ({interval})."
