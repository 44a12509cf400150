"""Percentile bootstrap over tasks: the interval of a mean, had other tasks of the same kind been drawn.

The tasks are resampled with replacement (Efron 1979), 10,000 times by default. The interval lies between percentiles of
the resampled means. Attempts within a task are not resampled: each task's estimate is kept as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
_DRAWS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Estimate:
    """A mean over tasks with its interval. `low` and `high` are the ends of the interval."""

    mean: float
    low: float
    high: float
    tasks: int
    """Number of tasks in the mean."""


def bootstrap(values: Sequence[float], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0) -> Estimate:
    """Return the mean of the values, one for each task, with its `level` interval. Raises ValueError for no values.

    The same seed draws the same tasks from value lists of the same length. For a paired difference, pass the tasks'
    differences, so that the same tasks are resampled on both sides.
    """
    array = np.asarray(values, dtype=float)
    if not array.size:
        raise ValueError("no task has a value; an interval needs at least one")
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(_resampled_means(array, resamples, seed), [tail, 100 - tail])
    return Estimate(float(array.mean()), float(low), float(high), array.size)


def _resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Map values [tasks] to means [resamples], in parts that bound the memory."""
    generator = np.random.default_rng(seed)
    part = max(1, _DRAWS_AT_ONCE // values.size)
    sizes = [min(part, resamples - start) for start in range(0, resamples, part)]
    draws = (generator.integers(values.size, size=(size, values.size)) for size in sizes)
    return np.concatenate([values[drawn].mean(axis=1) for drawn in draws])
