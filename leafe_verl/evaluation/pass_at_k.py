"""Estimates Pass@k, the probability that at least one of k attempts succeeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Return the unbiased estimate 1 - C(n-c, k) / C(n, k) for one task (Chen et al. 2021, arXiv 2107.03374).

    Raises ValueError if fewer than k attempts were made, or the counts contradict each other.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} of {num_samples} attempts; expected k from 1 to the number of attempts")
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"{num_correct} correct of {num_samples} attempts; expected 0 to {num_samples}")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def ks_up_to(num_samples: int) -> list[int]:
    """Return 1, 2, 4, ... and `num_samples` itself."""
    return sorted({2**i for i in range(num_samples.bit_length()) if 2**i <= num_samples} | {num_samples})


def common_attempts(successes: Mapping[str, Sequence[bool]]) -> int:
    """Return the number of scored attempts that nine in ten tasks have; 0 without tasks.

    A larger k would be estimated from the tasks that happened to lose none, which are no sample of all.
    """
    numbers = sorted(map(len, successes.values()))
    return numbers[len(numbers) // 10] if numbers else 0


def common_ks(successes: Mapping[str, Sequence[bool]], wanted: int | None = None) -> list[int]:
    """Return those of `ks_up_to(wanted)` that nine in ten tasks can estimate.

    `wanted`: number of attempts that were asked for at each task; None: that of `common_attempts`.
    """
    most = common_attempts(successes)
    return [k for k in ks_up_to(wanted or most) if k <= most] if most else []


def pass_values(successes: Mapping[str, Sequence[bool]], k: int) -> dict[str, float]:
    """Return task key -> pass@k, from each task's scored attempts.

    Tasks with fewer than k scored attempts have no estimate and are left out. Report them separately; they are not
    failures.
    """
    return {key: pass_at_k(len(s), sum(map(bool, s)), k) for key, s in successes.items() if len(s) >= k}


def mean_pass_at_k(successes: Mapping[str, Sequence[bool]], ks: Sequence[int]) -> dict[int, float]:
    """Return k -> the mean of `pass_values` over tasks. A k that no task can estimate is left out."""
    values = {k: pass_values(successes, k).values() for k in ks}
    return {k: sum(found) / len(found) for k, found in values.items() if found}
