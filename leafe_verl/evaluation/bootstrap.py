"""Percentile bootstrap over tasks: the interval of a mean or a ratio, had other tasks of the same kind been drawn.

The tasks are resampled with replacement (Efron 1979), 10,000 times by default. The interval lies between percentiles of
the resampled values. Attempts within a task are not resampled: each task's estimate is kept as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
_DRAWS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Estimate:
    """A mean or a ratio over tasks with its interval. `low` and `high` are the ends of the interval."""

    mean: float
    low: float
    high: float
    tasks: int
    """Number of tasks in the mean; of a ratio, those with a whole above zero."""


@dataclass(frozen=True)
class Ratio:
    """The sum of a part over tasks, divided by the sum of a whole. Both have one number for each task."""

    parts: Sequence[float]
    wholes: Sequence[float]


def bootstrap(values: Sequence[float], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0) -> Estimate:
    """Return the mean of the values, one for each task, with its `level` interval. Raises ValueError for no values.

    The same seed draws the same tasks from value lists of the same length. For a paired difference, pass the tasks'
    differences, so that the same tasks are resampled on both sides.
    """
    array = np.asarray(values, dtype=float)
    if not array.size:
        raise ValueError("no task has a value; an interval needs at least one")
    means = np.concatenate([array[drawn].mean(axis=1) for drawn in _draws(array.size, resamples, seed)])
    return Estimate(float(array.mean()), *_interval(means, level), array.size)


def bootstrap_ratio(
    ratio: Ratio, *, minus: Ratio | None = None, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Estimate | None:
    """Return a ratio of sums over tasks with its interval; None if its whole is zero.

    `minus` is another ratio over the same tasks, which is taken off in each resample, so that the difference is paired.
    Resamples whose whole is zero say nothing about the ratio and are left out.
    """
    sides = [np.asarray([each.parts, each.wholes], dtype=float) for each in (ratio, minus) if each]
    if not all(wholes.sum() > 0 for _, wholes in sides):
        return None
    number = sides[0].shape[1]
    drawn = np.concatenate([_difference(sides, tasks) for tasks in _draws(number, resamples, seed)])
    (found,) = _difference(sides, np.arange(number)[None])
    tasks = np.any([wholes > 0 for _, wholes in sides], axis=0).sum()
    return Estimate(float(found), *_interval(drawn[~np.isnan(drawn)], level), int(tasks))


def _difference(sides: Sequence[np.ndarray], drawn: np.ndarray) -> np.ndarray:
    """Return the first side's ratio without the second's, [resamples], over the drawn tasks, [resamples, tasks].

    A side is its parts and its wholes, [2, tasks]. Where a whole is zero, the difference is NaN.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [parts[drawn].sum(axis=1) / wholes[drawn].sum(axis=1) for parts, wholes in sides]
    difference: np.ndarray = ratios[0] - sum(ratios[1:])
    return difference


def _draws(number: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the drawn tasks, [resamples, number], in parts that bound the memory."""
    generator = np.random.default_rng(seed)
    part = max(1, _DRAWS_AT_ONCE // number)
    for start in range(0, resamples, part):
        yield generator.integers(number, size=(min(part, resamples - start), number))


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
