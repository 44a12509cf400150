"""The metrics that a validation adds to verl's own."""

from __future__ import annotations

from collections.abc import Iterable

from leafe_verl.core.recovery_figures import PREFIX, SHARES, PlainAttempt, recovery_by_task
from leafe_verl.core.statistics import ratios, total


def recovery_metrics(rows: Iterable[tuple[str, str, PlainAttempt | None]]) -> dict[str, float]:
    """Return the figures of recovery of each data source. Figures by turn, and the number of failures, are `val-aux`.

    `rows` are the data source, the task and the attempt of each validated row; None for a row without an attempt.
    """
    by_source: dict[str, list[tuple[str, list[PlainAttempt]]]] = {}
    for source, task, attempt in rows:
        if attempt:
            by_source.setdefault(source, []).append((task, [attempt]))
    metrics: dict[str, float] = {}
    for source, attempts in by_source.items():
        counts = total(recovery_by_task(attempts).values())
        metrics[f"val-aux/{source}/failures"] = counts[f"{PREFIX}failures"]
        for name, share in ratios(counts).items():
            metrics[f"{'val-core' if name in SHARES else 'val-aux'}/{source}/{name}"] = share
    return metrics
