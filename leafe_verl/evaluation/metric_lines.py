"""Reads one line of the metrics that verl's `file` logger writes.

verl writes what is no finite number as `null`, and other loggers write `NaN` or `Infinity`. Such a value is a gap: it
is left out, as if it had not been logged. A loss stays, as NaN, since it says that the training has diverged.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

LOSS = re.compile(r"\w+/loss(_\w+)?")
"""Names of losses among the metrics."""


def parse_line(line: str | bytes) -> tuple[int, dict[str, float]] | None:
    """Return a line's training step and its metrics; None for a line that is not one, as a killed process leaves."""
    try:
        record = json.loads(line)
        step, values = int(record["step"]), record["data"]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return (step, _numbers(values)) if isinstance(values, Mapping) else None


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers, and NaN for each loss that is none."""
    numbers = {}
    for name, value in values.items():
        if isinstance(value, int | float) and _is_finite(value):
            numbers[name] = value
        elif LOSS.fullmatch(name) and (value is None or isinstance(value, float)):
            numbers[name] = math.nan
    return numbers


def _is_finite(value: float) -> bool:
    """An integer of hundreds of digits is no float, and no picture can show it."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
