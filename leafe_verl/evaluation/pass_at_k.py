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


def mean_pass_at_k(successes: Mapping[str, Sequence[bool]], ks: Sequence[int]) -> dict[int, float]:
    """Return k -> pass@k averaged over tasks, from each task's scored attempts.

    Tasks with fewer than k scored attempts have no estimate and are left out of that k's mean, and a k that no task can
    estimate is left out. Report such tasks separately; they are not failures.
    """
    means = {}
    for k in ks:
        estimates = [pass_at_k(len(s), sum(map(bool, s)), k) for s in successes.values() if len(s) >= k]
        if estimates:
            means[k] = sum(estimates) / len(estimates)
    return means
