"""Formats rows of text as a table, for a terminal or for Markdown. The first row is the heading."""

from __future__ import annotations

from collections.abc import Sequence

from leafe_verl.evaluation.bootstrap import Estimate

Rows = Sequence[Sequence[str]]


def text_table(rows: Rows) -> str:
    """Return a table with its first column aligned left, the others right, and a line under the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(rows: Rows) -> str:
    """Return a Markdown table with its first column aligned left and the others right."""
    heading, *body = rows
    rule = ["---", *["---:"] * (len(heading) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, rule, *body))


def percent(value: float) -> str:
    """Return a share as a percentage with one decimal, without the %."""
    return f"{100 * value:.1f}"


def points(value: float) -> str:
    """Return a difference of shares as percentage points with its sign."""
    return f"{100 * value:+.1f}"


def percent_interval(low: float, high: float) -> str:
    """Return an interval of shares as percentages."""
    return f"{100 * low:.1f} to {100 * high:.1f}"


def estimate_cell(estimate: Estimate, *, sign: bool = False) -> str:
    """Return a share with its interval as percentages, or a difference as points with its sign."""
    mean = points(estimate.mean) if sign else percent(estimate.mean)
    return f"{mean} ({percent_interval(estimate.low, estimate.high)})"
