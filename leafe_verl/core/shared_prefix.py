"""What sequences have in common at their beginnings."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any


def sort_by_shared_prefix(sequences: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Order sequences so that those that begin alike are adjacent.

    Returns the place of each in `sequences`, with the number of first tokens that it shares with the one before it;
    with none of those further before does it share more.
    """
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    shared = [shared_prefix_length(sequences[a], sequences[b]) for a, b in itertools.pairwise(order)]
    return list(zip(order, [0, *shared], strict=False))


def shared_prefix_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return how many leading elements two sequences have in common."""
    differ = map(operator.ne, one, other)
    return next(itertools.compress(itertools.count(), differ), min(len(one), len(other)))
