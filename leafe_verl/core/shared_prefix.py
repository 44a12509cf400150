"""Prefixes that sequences share."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any


def sort_by_shared_prefix(sequences: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Sort sequences lexicographically, so that those with a common prefix are adjacent.

    Returns, in sorted order, the index of each sequence in `sequences` and the number of leading tokens that it shares
    with the one before it. It shares no more with any earlier one.
    """
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    shared = [shared_prefix_length(sequences[a], sequences[b]) for a, b in itertools.pairwise(order)]
    return list(zip(order, [0, *shared], strict=False))


def shared_prefix_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return how many leading elements two sequences have in common."""
    differ = map(operator.ne, one, other)
    return next(itertools.compress(itertools.count(), differ), min(len(one), len(other)))
