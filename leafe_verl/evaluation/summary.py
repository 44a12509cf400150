"""Reads the metrics that verl's `file` logger wrote, and renders the summary of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from leafe_verl.core.statistics import total
from leafe_verl.evaluation.metric_lines import parse_line
from leafe_verl.evaluation.recovery import FIGURES, UNKNOWN
from leafe_verl.evaluation.tables import text_table

Metrics = dict[int, dict[str, float]]
"""Training step -> name of the metric -> value. Step 0 is the validation before training."""

SUMMED = {
    "training steps with an update": None,
    "exploration trees": "leafe/trees",
    "attempts": "leafe/attempts",
    "plain attempts that went on after a failed turn": "leafe/recovery/failures",
    "plain attempts that recovered": "leafe/recovery/recovered",
    "branches": "leafe/branches",
    "branches that improved": "leafe/branches_improved",
    "branches that succeeded": "leafe/branches_succeeded",
    "reflections parsed": "leafe/reflections_parsed",
    "reflections fallen back": "leafe/reflections_fallback",
    "environment steps": "leafe/environment_steps",
    "replayed steps": "leafe/replayed_steps",
    "sampled tokens": "leafe/sampled_tokens",
    "counterfactual examples": "leafe/examples/counterfactual",
    "rehearsal examples": "leafe/examples/rehearsal",
    "recovery examples": "leafe/examples/recovery",
    "trained tokens": "leafe/trained_tokens",
    "optimiser steps": "leafe/updates",
}
"""Label -> metric that is summed over the training steps; None: counted by `count_updates`."""
EXPLORED = (
    *("branches", "branches that improved", "branches that succeeded", "reflections parsed", "reflections fallen back"),
    *("counterfactual examples", "rehearsal examples", "recovery examples"),
)
"""Labels of what exploring alone gives, and GRPO never."""
BESIDE = {
    "plain attempts that recovered": "recovered",
    "branches that improved": "improved",
    "branches that succeeded": "succeeded",
    "reflections fallen back": "fallen back",
    "replayed steps": "replayed",
    "rehearsal examples": "rehearsal",
    "recovery examples": "recovery",
}
"""Label -> the word by which the summary, which ends a run in the terminal, shows it in the row above."""


def read_metrics(run_dir: Path) -> Metrics:
    """Read and merge the metrics files of a run in the order they were begun.

    Each process writes a file of its own. One that resumes the run, or begins it anew, takes the place of what earlier
    ones did from its first step on. A line that a killed process cut short is skipped. A value that is no finite number
    is a gap, as `metric_lines` says. Raises ValueError if there are no metrics.
    """
    merged: Metrics = {}
    for path in sorted(run_dir.glob("metrics-*.jsonl")):
        found = _read_file(path)
        begun = min(found, default=None)
        if begun is not None:
            merged = {step: values for step, values in merged.items() if step <= begun}
        for step, values in found.items():
            merged.setdefault(step, {}).update(values)
    if not merged:
        raise ValueError(f"no metrics in {run_dir}; expected metrics-*.jsonl, as trainer.logger=[console,file] writes")
    return dict(sorted(merged.items()))


def _read_file(path: Path) -> Metrics:
    found: Metrics = {}
    for line in path.read_bytes().split(b"\n"):
        if parsed := parse_line(line):
            found.setdefault(parsed[0], {}).update(parsed[1])
    return found


def lost_steps(metrics: Metrics, last: int | None = None) -> list[int]:
    """Return the training steps without metrics of training, up to `last`, or to the run's own last one.

    The first step is 1, or, of a run that began from a checkpoint of another one, the first that has any. A resumed run
    may validate at a step whose own metrics were lost.
    """
    validated = {step for step, values in metrics.items() if values and all(name.startswith("val-") for name in values)}
    steps = {step for step in metrics if step > 0} - validated
    first = 1 if 0 in metrics else min(metrics, default=1)
    return [step for step in range(first, (last or max(steps, default=0)) + 1) if step not in steps]


def render_summary(metrics: Metrics) -> str:
    """Return a table of Pass@k before and after training, and a table of sums over all steps."""
    parts = [_pass_table(metrics), _sum_table(metrics)]
    return "\n\n".join(part for part in parts if part)


def validated_steps(metrics: Metrics) -> dict[str, int]:
    """Return "before" and "after" -> the steps of the first and the last validation; "validation" if there is one."""
    steps = sorted(step for step, values in metrics.items() if pass_at_k_values(values))
    if len(steps) > 1:
        return {"before": steps[0], "after": steps[-1]}
    return {"validation": steps[0]} if steps else {}


def _pass_table(metrics: Metrics) -> str:
    if not (validated := [*validated_steps(metrics).values()]):
        return ""
    first, last = validated[0], validated[-1]
    before, after = pass_at_k_values(metrics[first]), pass_at_k_values(metrics[last])
    rows = [("held-out", f"step {first}", f"step {last}", "change")]
    rows += [_pass_row(f"{source} Pass@{k}", value, after.get((source, k))) for (source, k), value in before.items()]
    shares = [recovery_shares(metrics[step]) for step in (first, last)]
    for source, figure in sorted({key for each in shares for key in each}, key=figure_order):
        rows.append(_pass_row(f"{source} {FIGURES[figure]}", *(each.get((source, figure)) for each in shares)))
    lost, lost_after = (sum(v for k, v in metrics[step].items() if k.endswith("/unscored")) for step in (first, last))
    if lost or lost_after:
        rows.append(("unscored attempts", f"{lost:.0f}", f"{lost_after:.0f}", ""))
    return text_table(rows if first < last else [row[:2] for row in rows])


def _pass_row(label: str, before: float | None, after: float | None) -> tuple[str, str, str, str]:
    change = "" if before is None or after is None else f"{100 * (after - before):+.1f}"
    return label, _percent(before), _percent(after), change


def recovery_shares(values: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """Return (data source, figure of recovery) -> its value of one step. A figure of nothing is absent."""
    found = {}
    for key, value in values.items():
        if (match := re.fullmatch(r"val-core/(.+)/(\w+)", key)) and match[2] in FIGURES:
            found[match[1], match[2]] = value
    return found


def figure_order(key: tuple[str, str]) -> tuple[str, int]:
    """Return what sorts (data source, figure of recovery): by source, then in the order of the tables."""
    return key[0], list(FIGURES).index(key[1])


def pass_at_k_values(values: Mapping[str, float]) -> dict[tuple[str, int], float]:
    """Return (data source, k) -> Pass@k from the metrics of one step, sorted; empty if the step did not validate."""
    found = {}
    for key, value in values.items():
        if match := re.fullmatch(r"val-core/(.+)/pass@(\d+)", key):
            found[(match.group(1), int(match.group(2)))] = value
    return dict(sorted(found.items()))


def count_updates(metrics: Metrics) -> int:
    """Return the number of training steps that updated the weights."""
    trained = (values.get("leafe/updates", "actor/loss" in values) for step, values in metrics.items() if step > 0)
    return sum(map(bool, trained))


def summed_metrics(sums: Mapping[str, float]) -> dict[str, str | None]:
    """Return the part of `SUMMED` that a run's table shows: where nothing was explored, what is left of it.

    Args:
        sums: Metric -> its sum over the training steps.
    """
    if any(sums.get(SUMMED[label] or "") for label in EXPLORED):
        return SUMMED
    left = {label: key for label, key in SUMMED.items() if label not in EXPLORED}
    return {"tasks" if label == "exploration trees" else label: key for label, key in left.items()}


def _sum_table(metrics: Metrics) -> str:
    sums = total(values for step, values in metrics.items() if step > 0)
    if "leafe/trees" not in sums:
        return ""
    rows = [("collected", "total")]
    for label, key in summed_metrics(sums).items():
        number = sums.get(key) if key else count_updates(metrics)
        text = UNKNOWN if number is None else f"{number:,.0f}"
        if label in BESIDE:
            above, before = rows.pop()
            rows.append((above, f"{before}, {text} {BESIDE[label]}"))
        else:
            rows.append((label, text))
    return text_table(rows)


def _percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{100 * value:.1f} %"
