"""Keeps the outcomes of a run's validations by task, and tells whether two validations differ beyond chance.

verl's metrics hold means over all tasks. Whether a difference of means is more than chance depends on how much the
tasks differ, so the outcomes of each task are kept beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from leafe_verl.evaluation.bootstrap import bootstrap
from leafe_verl.evaluation.pass_at_k import ks_up_to
from leafe_verl.evaluation.report import pass_values
from leafe_verl.evaluation.tables import percent

FILE = "validations.jsonl"
Outcomes = Mapping[str, Sequence[bool]]
"""Task -> whether each of its scored attempts succeeded."""


def append_validation(folder: Path, step: int, outcomes: Outcomes) -> None:
    """Add a validation to the file in `folder`. Raises OSError if it cannot be written."""
    record = {"step": step, "outcomes": {task: [int(solved) for solved in found] for task, found in outcomes.items()}}
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_validations(folder: Path) -> dict[int, Outcomes]:
    """Return step -> outcomes, in the order of steps. A step that a resumed run repeats counts once, as it was last."""
    found: dict[int, Outcomes] = {}
    path = folder / FILE
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
            outcomes = {task: [bool(o) for o in each] for task, each in record["outcomes"].items()}
            found[int(record["step"])] = outcomes
        except (ValueError, KeyError, TypeError, AttributeError):  # a killed process cut this line short
            continue
    return dict(sorted(found.items()))


def describe_change(validations: Mapping[int, Outcomes]) -> str:
    """Return a sentence on Pass@1 and one on the largest Pass@k, first validation to last; empty for less than two."""
    if len(validations) < 2:
        return ""
    before, after = validations[min(validations)], validations[max(validations)]
    most = min(max(map(len, each.values()), default=0) for each in (before, after))
    ks = ks_up_to(most) if most else []
    return " ".join(_sentence(k, before, after) for k in sorted({ks[0], ks[-1]})) if ks else ""


def _sentence(k: int, before: Outcomes, after: Outcomes) -> str:
    first, last = pass_values(before, k), pass_values(after, k)
    shared = sorted(first.keys() & last.keys())
    if not shared:
        return f"Pass@{k}: no task was scored both times."
    change = bootstrap([last[task] - first[task] for task in shared])
    means = [sum(each[task] for task in shared) / len(shared) for each in (first, last)]
    moved = f"{'rose' if change.mean > 0 else 'fell'} by {100 * abs(change.mean):.1f} points"
    beyond = change.low > 0 or change.high < 0
    verdict = "which is beyond chance" if beyond else "which may be chance alone"
    interval = f"95 % interval over {change.tasks} tasks: {100 * change.low:+.1f} to {100 * change.high:+.1f}"
    values = f"{percent(means[0])} to {percent(means[1])} %"
    if not change.mean:
        return f"Pass@{k} stayed the same, {values} ({interval})."
    return f"Pass@{k} {moved}, from {values}, {verdict} ({interval})."
