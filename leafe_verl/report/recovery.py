"""Builds what the overview says of recovery: figures, tables and charts, in the form that overview.py describes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leafe_verl.core.recovery_figures import share_parts
from leafe_verl.core.text import counted
from leafe_verl.evaluation.bootstrap import Estimate
from leafe_verl.evaluation.recovery import FIGURES, recovery_rows, turns_of
from leafe_verl.evaluation.summary import Metrics, figure_order, recovery_shares, validated_steps
from leafe_verl.evaluation.tables import percent, percent_interval

LABELS = {
    "recovery": "recovered after a failed turn",
    "recovery_fresh": "fresh sample on these failures",
    "repeat": "turns that repeat a failed one",
    "first_turn": "first turns that succeed",
}
COLLECTED = {name: (label, *share_parts(())[name]) for name, label in LABELS.items()}
"""Share of core.recovery_figures -> its label, the count of the part, and the count of the whole."""
Estimates = Mapping[str, Estimate]
"""Figures of an evaluation, as `recovery_estimates` gives them; empty for a training run."""
CHARTED = {"recovery": "recovery", "recovery_fresh": "fresh sample"}


def recovery_figures(estimates: Estimates) -> list[list[str]]:
    """Return label, value and explanation of each figure of an evaluation that is known."""
    return [
        [label, f"{percent(e.mean)} %", f"{percent_interval(e.low, e.high)}, {counted(e.tasks, 'task')}"]
        for name, label in LABELS.items()
        if (e := estimates.get(name))
    ]


def recovery_table(estimates: Estimates) -> dict[str, Any]:
    """Return the table of an evaluation. A figure that is unknown, as in an earlier version's, is a dash."""
    rows = [("", "%", "95 % interval over tasks", "tasks"), *recovery_rows(estimates)]
    return {"title": "Recovery", "rows": [list(row) for row in rows]}


def recovery_charts(metrics: Metrics, estimates: Estimates) -> Iterator[dict[str, Any]]:
    """Yield a chart of recovery by the turn that failed: of an evaluation, or of each validated data source."""
    by_turn = {label: _by_turn(estimates, figure) for figure, label in CHARTED.items()}
    if any(by_turn.values()):
        yield _chart("Recovery by failed turn", by_turn)
    steps = validated_steps(metrics)
    for source in sorted({source for step in steps.values() for source, _ in _shares_by_turn(metrics[step])}):
        series = {
            f"{label}, {name} (step {step})": _shares_by_turn(metrics[step]).get((source, figure), {})
            for figure, label in CHARTED.items()
            for name, step in steps.items()
        }
        yield _chart(f"Recovery by failed turn, held-out tasks of {source}", series)


def validated_recovery(metrics: Metrics) -> list[list[str]]:
    """Return label, value and explanation of each figure, from the first validation to the last."""
    found = [recovery_shares(metrics[step]) for step in validated_steps(metrics).values()]
    keys = sorted({key for each in found for key in each}, key=figure_order)
    return [
        changed_figure(f"{FIGURES[key[1]]}, {key[0]}", [each[key] for each in found if key in each]) for key in keys
    ]


def changed_figure(label: str, values: Sequence[float]) -> list[str]:
    """Return a figure of one or two validations, with its change."""
    change = f"{100 * (values[-1] - values[0]):+.1f} points" if len(values) > 1 else "one validation"
    return [label, " → ".join(f"{percent(value)} %" for value in values), change]


def _by_turn(estimates: Estimates, figure: str) -> dict[int, float]:
    """Return failed turn -> value of a figure."""
    return {turn: estimates[name].mean for turn, name in turns_of(estimates, figure).items()}


def _shares_by_turn(values: Mapping[str, float]) -> dict[tuple[str, str], dict[int, float]]:
    """Return (data source, figure) -> failed turn -> value, from the metrics of one step."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for key, value in values.items():
        if match := re.fullmatch(r"val-aux/(.+)/(recovery|recovery_fresh)_(\d+)", key):
            found.setdefault((match[1], match[2]), {})[int(match[3])] = value
    return found


def _chart(title: str, series: Mapping[str, Mapping[int, float]]) -> dict[str, Any]:
    turns = sorted({turn for values in series.values() for turn in values})
    lines = [
        {"label": label, "values": [round(100 * values[turn], 2) if turn in values else None for turn in turns]}
        for label, values in series.items()
        if values
    ]
    return {"title": title, "x": "failed turn", "unit": "%", "xs": turns, "series": lines}
