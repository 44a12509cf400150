"""The control with matched volume: how often each successful attempt is rehearsed in place of LEAFE's examples.

Trees without a success have nothing to rehearse, so that the volume is matched over all trees of a training step.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leafe_verl.core.sft_examples import Example


@dataclass(frozen=True)
class Volume:
    """How much some examples train in one epoch."""

    examples: int
    tokens: int
    """Number of tokens that the loss is computed on."""

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Volume:
        """Return the volume of these examples."""
        trained = [sum(example.sequence.mask) for example in examples]
        return cls(len(trained), sum(trained))


def matched_uses(tokens: Sequence[int], wanted: int, least: int, draw: random.Random) -> list[int]:
    """Return how often each example is to be trained on, so that together they train about `wanted` tokens.

    Every example is used equally often, and some of them, which are drawn, once more.

    Args:
        tokens: Number of trained tokens of each example.
        wanted: Number of tokens to train on.
        least: Smallest number of uses in all, which is the number of optimiser steps: each of them needs an example.
    """
    if not tokens:
        return []
    rounds, rest = divmod(wanted, sum(tokens))
    uses, order = [rounds] * len(tokens), list(range(len(tokens)))
    draw.shuffle(order)
    for index in order:
        if tokens[index] <= rest:
            uses[index] += 1
            rest -= tokens[index]
    left = [index for index in order if uses[index] == rounds and tokens[index] < 2 * rest]
    if left:  # one more brings the sum nearer to what is wanted, although it exceeds it then
        uses[min(left, key=lambda index: tokens[index])] += 1
    while sum(uses) < least:
        uses[min(order, key=lambda index: uses[index])] += 1
    return uses
