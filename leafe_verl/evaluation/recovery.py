"""The figures of recovery of evaluations, with intervals over tasks; core/recovery_figures.py says what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from leafe_verl.core.recovery_figures import PREFIX, share_parts
from leafe_verl.core.statistics import total
from leafe_verl.evaluation.bootstrap import Estimate, Ratio, bootstrap_ratio
from leafe_verl.evaluation.tables import percent, percent_interval

TaskCounts = Mapping[str, Mapping[str, float]]
"""Task key -> counts of core.recovery_figures."""

ABOVE_FRESH = "above_fresh"
FIGURES = {
    "recovery": "recovery",
    "recovery_fresh": "fresh sample",
    ABOVE_FRESH: "above fresh",
    "repeat": "repeated turns",
    "first_turn": "first turn",
}
"""Figure -> its label. All but the difference of the first two are shares of core.recovery_figures."""
UNKNOWN = "–"
"""Stands where there was nothing to count: no turn failed, or an earlier version wrote the evaluation."""


def recovery_estimates(tasks: TaskCounts) -> dict[str, Estimate]:
    """Return the figures, those by turn too, as ratios of sums over tasks. A figure of nothing is absent."""
    keys = sorted(tasks)
    found = {name: bootstrap_ratio(_ratio(tasks, keys, pair)) for name, pair in _parts(tasks).items()}
    found[ABOVE_FRESH] = _above_fresh(tasks)
    return {name: estimate for name, estimate in found.items() if estimate}


def recovery_differences(ours: TaskCounts, theirs: TaskCounts) -> dict[str, Estimate]:
    """Return the shares of ours without theirs, over the tasks that both have. Both sides resample the same tasks."""
    keys = sorted(ours.keys() & theirs.keys())
    found = {
        name: bootstrap_ratio(_ratio(ours, keys, pair), minus=_ratio(theirs, keys, pair))
        for name, pair in _parts(ours).items()
        if name in FIGURES
    }
    return {name: estimate for name, estimate in found.items() if estimate}


def recovery_rows(estimates: Mapping[str, Estimate]) -> list[tuple[str, str, str, str]]:
    """Return label, percentage, interval and number of tasks of each figure, and by turn where several have failed."""
    by_turn = {name: f"  after a failed turn {turn}" for turn, name in turns_of(estimates, "recovery").items()}
    labels = {"recovery": FIGURES["recovery"], **(by_turn if len(by_turn) > 1 else {}), **FIGURES}
    rows = []
    for name, label in labels.items():
        e = estimates.get(name)
        known = (percent(e.mean), percent_interval(e.low, e.high), str(e.tasks)) if e else (UNKNOWN, "", "")
        rows.append((label, *known))
    return rows


def turns_of(names: Iterable[str], figure: str) -> dict[int, str]:
    """Return failed turn -> the name under which a figure stands for it, among the names of figures."""
    begins = f"{figure}_"
    return {int(name.removeprefix(begins)): name for name in names if name.removeprefix(begins).isdecimal()}


def count_failures(tasks: TaskCounts) -> int | None:
    """Return the number of attempts with a failed turn; None if no task has counts."""
    return int(total(tasks.values())[f"{PREFIX}failures"]) if tasks else None


def _parts(tasks: TaskCounts) -> dict[str, tuple[str, str]]:
    return share_parts(total(tasks.values()))


def _ratio(tasks: TaskCounts, keys: Iterable[str], pair: tuple[str, str]) -> Ratio:
    part, whole = ([tasks[key].get(name, 0) for key in keys] for name in pair)
    return Ratio(part, whole)


def _above_fresh(tasks: TaskCounts) -> Estimate | None:
    """Return recovery without what a fresh sample solves, over the tasks where that is known."""
    parts = share_parts(())
    keys = sorted(key for key, counts in tasks.items() if counts[f"{PREFIX}compared"] == counts[f"{PREFIX}failures"])
    return bootstrap_ratio(_ratio(tasks, keys, parts["recovery"]), minus=_ratio(tasks, keys, parts["recovery_fresh"]))
