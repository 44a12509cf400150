"""Builds the overview of a run: figures, tables and charts, as JSON values for the page.

{"name", "notes": [text], "figures": [[label, value, explanation]], "tables": [{"title", "rows"}],
 "charts": [{"title", "x", "unit", "xs", "series": [{"label", "values": [number or null]}]}]}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from leafe_verl.core.text import counted
from leafe_verl.evaluation.given import BEYOND_FRESH, describe_histories, figure_rows
from leafe_verl.evaluation.metric_lines import LOSS
from leafe_verl.evaluation.pass_at_k import common_ks
from leafe_verl.evaluation.recovery import recovery_estimates
from leafe_verl.evaluation.report import pass_estimates
from leafe_verl.evaluation.summary import Metrics, count_updates, pass_at_k_values, summed_metrics, validated_steps
from leafe_verl.evaluation.tables import percent, percent_interval
from leafe_verl.report.recovery import (
    COLLECTED,
    changed_figure,
    recovery_charts,
    recovery_figures,
    recovery_table,
    validated_recovery,
)
from leafe_verl.report.sources import ReportedRun

PREFIX = "leafe/"
SHARES = {
    "branch_improved": ("branches that improved", "branches_improved", "branches_scored"),
    "branch_success": ("branches that succeeded", "branches_succeeded", "branches_scored"),
    "reflection_parsed": ("reflections parsed", "reflections_parsed", "reflections"),
    "task_success": ("tasks solved while exploring", "solved", "trees_scored"),
}
"""Ratio of core.statistics -> its label, the count of the part, and the count of the whole."""


def build_overview(run: ReportedRun, counts: Mapping[str, float]) -> dict[str, Any]:
    """Return the run's overview. `counts` are summed over its trees and used where metrics are missing."""
    measured = sum_counts(run.metrics)
    collected: Mapping[str, float] = measured if "trees" in measured else counts
    recovered = recovery_estimates(run.recovery)
    charts = [*_pass_charts(run.metrics), *recovery_charts(run.metrics, recovered), *_step_charts(run.metrics)]
    recovery_tables = [recovery_table(recovered)] if run.results else []
    tables = [*_evaluation_tables(run), *recovery_tables, *_given_tables(run), *_spent_tables(run.metrics, collected)]
    # Plain attempts have neither branches nor reflections, and their Pass@k says what was solved.
    shares = share_figures(collected) if run.explores or not (run.results or run.given) else []
    figures = [*_pass_figures(run), *recovery_figures(recovered), *_given_figures(run), *shares]
    return {"name": run.name, "notes": list(run.notes), "figures": figures, "tables": tables, "charts": charts}


def sum_counts(metrics: Metrics) -> dict[str, int]:
    """Return the counts of core.statistics, summed over the training steps. The sums of ratios have no meaning."""
    sums: Counter[str] = Counter()
    for step, values in metrics.items():
        if step > 0:
            sums.update(select_counts(values))
    return dict(sums)


def select_counts(values: Mapping[str, float]) -> dict[str, float]:
    """Return the counts and ratios of core.statistics among the metrics of one step, without their prefix."""
    return {key.removeprefix(PREFIX): value for key, value in values.items() if key.startswith(PREFIX)}


def _pass_figures(run: ReportedRun) -> list[list[str]]:
    if run.results:
        estimates = pass_estimates(run.results, [1])
        label = "solved within the budget" if run.explores else "Pass@1"
        return [[label, f"{percent(e.mean)} %", counted(e.tasks, "task")] for e in estimates.values()]
    return validation_figures(run.metrics)


def validation_figures(metrics: Metrics) -> list[list[str]]:
    """Return label, value and explanation of each Pass@k and of recovery, from the first validation to the last."""
    validated = [pass_at_k_values(metrics[step]) for step in validated_steps(metrics).values()]
    figures = []
    for source, k in validated[0] if validated else ():
        values = [found[source, k] for found in validated if (source, k) in found]
        figures.append(changed_figure(f"Pass@{k}, {source}", values))
    return [*figures, *validated_recovery(metrics)]


def share_figures(counts: Mapping[str, float]) -> list[list[str]]:
    """Return label, value and explanation of each share that can be computed from the counts."""
    return [
        [label, f"{percent(counts[part] / counts[whole])} %", f"{counts[part]:,.0f} of {counts[whole]:,.0f}"]
        for label, part, whole in (*SHARES.values(), *COLLECTED.values())
        if part in counts and counts.get(whole)
    ]


def _pass_charts(metrics: Metrics) -> Iterable[dict[str, Any]]:
    """Yield a chart of Pass@k over k, before and after training, for each data source."""
    validated = {
        f"{name} (step {step})": pass_at_k_values(metrics[step]) for name, step in validated_steps(metrics).items()
    }
    for source in sorted({source for found in validated.values() for source, _ in found}):
        ks = sorted({k for found in validated.values() for name, k in found if name == source})
        series = [
            {"label": label, "values": [_times_100(found.get((source, k))) for k in ks]}
            for label, found in validated.items()
        ]
        yield {"title": f"Pass@k, held-out tasks of {source}", "x": "k", "unit": "%", "xs": ks, "series": series}


def _step_charts(metrics: Metrics) -> Iterable[dict[str, Any]]:
    """Yield charts over the training steps: losses, and shares of what was collected."""
    trained = {step: values for step, values in metrics.items() if step > 0}
    losses = sorted({key for values in trained.values() for key in values if LOSS.fullmatch(key)})
    shares, recovered = (
        {f"{PREFIX}{name}": label for name, (label, *_) in chosen.items()} for chosen in (SHARES, COLLECTED)
    )
    chosen = [
        ("Losses", "", {key: key for key in losses}),
        ("Shares of what was collected", "%", shares),
        ("Recovery in what was collected", "%", recovered),
    ]
    for title, unit, labels in chosen:
        steps = [step for step, values in trained.items() if labels.keys() & values.keys()]
        series = [
            {"label": label, "values": [_scaled(trained[step].get(key), unit) for step in steps]}
            for key, label in labels.items()
            if any(key in trained[step] for step in steps)
        ]
        if series:
            yield {"title": title, "x": "training step", "unit": unit, "xs": steps, "series": series}


def _scaled(value: float | None, unit: str) -> float | None:
    # A loss may be NaN, which JSON cannot express.
    if value is None or value != value or abs(value) == float("inf"):
        return None
    return _times_100(value) if unit == "%" else value


def _times_100(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)


def _evaluation_tables(run: ReportedRun) -> Iterable[dict[str, Any]]:
    if not run.results or run.explores:
        return
    estimates = pass_estimates(run.results, common_ks(run.results, run.attempts))
    rows = [["", "%", "95 % interval over tasks", "tasks"]]
    rows += [
        [f"Pass@{k}", percent(e.mean), percent_interval(e.low, e.high), str(e.tasks)] for k, e in estimates.items()
    ]
    yield {"title": "Pass@k", "rows": rows}


def _given_figures(run: ReportedRun) -> Iterable[list[str]]:
    """Yield the recovery of an evaluation from given histories as figures."""
    if run.given:
        for label, mean, interval, tasks in figure_rows(run.given)[1:]:
            yield [label, mean if label == BEYOND_FRESH else f"{mean} %", f"{interval}, {counted(int(tasks), 'task')}"]


def _given_tables(run: ReportedRun) -> Iterable[dict[str, Any]]:
    if run.given:
        rows = [list(row) for row in figure_rows(run.given)]
        yield {"title": f"From the same failures: {describe_histories(run.given)}", "rows": rows}


def _spent_tables(metrics: Metrics, counts: Mapping[str, float]) -> Iterable[dict[str, Any]]:
    """Yield a table of the budget spent and its results."""
    rows = [["collected", "total"]]
    for label, key in summed_metrics({f"{PREFIX}{name}": count for name, count in counts.items()}).items():
        if key is None:
            rows += [[label, f"{count_updates(metrics):,}"]] if metrics else []
        elif (name := key.removeprefix(PREFIX)) in counts and (metrics or counts[name]):
            rows.append([label, f"{counts[name]:,.0f}"])
    seconds = sum(values.get("timing_s/step", 0.0) for values in metrics.values())
    rows += [["minutes in training steps", f"{seconds / 60:,.1f}"]] if seconds else []
    if len(rows) > 1:
        yield {"title": "Budget spent", "rows": rows}
