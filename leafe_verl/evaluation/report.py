"""One evaluation's table: Pass@k, or what was solved within a tree's budget, each with its interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from leafe_verl.core import Outcome
from leafe_verl.evaluation.attempts import Record, results_of, total_counts
from leafe_verl.evaluation.bootstrap import Estimate, bootstrap
from leafe_verl.evaluation.manifest import Manifest
from leafe_verl.evaluation.pass_at_k import ks_up_to, pass_at_k
from leafe_verl.evaluation.tables import percent, percent_interval, text_table


def pass_values(results: Mapping[str, Sequence[bool]], k: int) -> dict[str, float]:
    """Task key -> its Pass@k; tasks with fewer than k scored attempts have none and are absent."""
    return {key: pass_at_k(len(found), sum(found), k) for key, found in results.items() if len(found) >= k}


def pass_estimates(results: Mapping[str, Sequence[bool]], ks: Sequence[int]) -> dict[int, Estimate]:
    """k -> Pass@k over tasks with its interval; a k that no task can estimate is absent."""
    values = {k: pass_values(results, k) for k in ks}
    return {k: bootstrap(list(found.values())) for k, found in values.items() if found}


def render_evaluation(manifest: Manifest, records: Iterable[Record]) -> str:
    """Return the table of figures and, below, the table of what they rest on."""
    records = list(records)
    results = results_of(records)
    most = 1 if manifest.explores else max(map(len, results.values()), default=1)
    figures = {
        "solved within the budget" if manifest.explores else f"Pass@{k}": estimate
        for k, estimate in pass_estimates(results, ks_up_to(most)).items()
    }
    rows = [("", "%", "95 % interval", "tasks")]
    rows += [(name, percent(e.mean), percent_interval(e.low, e.high), str(e.tasks)) for name, e in figures.items()]
    parts = [text_table(rows)] if figures else ["no scored attempt yet"]
    return "\n\n".join([*parts, text_table(_ground(records))])


def _ground(records: list[Record]) -> list[tuple[str, str]]:
    counts = total_counts(records)
    outcomes = {outcome: counts.get(f"outcome/{outcome.value}", 0) for outcome in Outcome}
    scored = sum(number for outcome, number in outcomes.items() if outcome.scored)
    unscored = {outcome: number for outcome, number in outcomes.items() if not outcome.scored and number}
    rows = [
        ("tasks", len({record.key for record in records})),
        ("scored attempts", scored),
        ("  succeeded", outcomes[Outcome.SUCCESS]),
        ("  failed", scored - outcomes[Outcome.SUCCESS]),
        ("unscored attempts", sum(unscored.values())),
        *((f"  {outcome.value}", number) for outcome, number in unscored.items()),
        ("environment steps", counts.get("environment_steps", 0)),
        ("sampled tokens", counts.get("sampled_tokens", 0)),
    ]
    return [("collected", "total"), *((name, f"{number:,}") for name, number in rows)]
