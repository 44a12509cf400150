"""Renders the table of one evaluation: Pass@k, or the share of tasks solved within a tree's budget, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from leafe_verl.core import Outcome
from leafe_verl.evaluation.bootstrap import Estimate, bootstrap
from leafe_verl.evaluation.manifest import Manifest
from leafe_verl.evaluation.pass_at_k import common_ks, pass_values
from leafe_verl.evaluation.recovery import UNKNOWN, count_failures, recovery_estimates, recovery_rows
from leafe_verl.evaluation.results import EvaluatedTree, recovery_counts, successes_by_task, total_counts
from leafe_verl.evaluation.tables import percent, percent_interval, text_table


def pass_estimates(results: Mapping[str, Sequence[bool]], ks: Sequence[int]) -> dict[int, Estimate]:
    """Return k -> Pass@k over tasks with its interval. A k that no task can estimate is left out."""
    values = {k: pass_values(results, k) for k in ks}
    return {k: bootstrap(list(found.values())) for k, found in values.items() if found}


def render_evaluation(manifest: Manifest, trees: Iterable[EvaluatedTree]) -> str:
    """Return the table of Pass@k and recovery and, below it, the table of what was collected."""
    trees = list(trees)
    results = successes_by_task(trees)
    ks = common_ks(results, 1 if manifest.explores else manifest.attempts)
    figures = {
        "solved within the budget" if manifest.explores else f"Pass@{k}": estimate
        for k, estimate in pass_estimates(results, ks).items()
    }
    rows = [("", "%", "95 % interval", "tasks")]
    rows += [(name, percent(e.mean), percent_interval(e.low, e.high), str(e.tasks)) for name, e in figures.items()]
    rows += recovery_rows(recovery_estimates(recovery_counts(trees)))
    parts = [text_table(rows)] if figures else ["no scored attempt yet"]
    return "\n\n".join([*parts, text_table(collected_rows(trees))])


def collected_rows(trees: Sequence[EvaluatedTree]) -> list[tuple[str, str]]:
    """Return the table of what was collected: attempts by how they ended, and what they spent."""
    counts = total_counts(trees)
    outcomes = {outcome: counts.get(f"outcome/{outcome.value}", 0) for outcome in Outcome}
    scored = sum(number for outcome, number in outcomes.items() if outcome.scored)
    unscored = {outcome: number for outcome, number in outcomes.items() if not outcome.scored and number}
    rows = [
        ("tasks", len({tree.task_key for tree in trees})),
        ("scored attempts", scored),
        ("  succeeded", outcomes[Outcome.SUCCESS]),
        ("  failed", scored - outcomes[Outcome.SUCCESS]),
        ("  went on after a failed turn", count_failures(recovery_counts(trees))),
        ("unscored attempts", sum(unscored.values())),
        *((f"  {outcome.value}", number) for outcome, number in unscored.items()),
        ("actions stopped by a time limit", counts.get("timed_out_actions")),
        ("environment steps", counts.get("environment_steps", 0)),
        ("sampled tokens", counts.get("sampled_tokens", 0)),
    ]
    return [("collected", "total"), *((name, UNKNOWN if number is None else f"{number:,}") for name, number in rows)]
