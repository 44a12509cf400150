"""Which examples make a mini-batch, on which rank: trees stay together, ranks compute about as many tokens."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from leafe_verl.plugin.training.prefix_tree import cut_into, merged_length


@dataclass(frozen=True)
class ExampleRow:
    """An example, as a record of TransferQueue."""

    key: str
    tree: tuple[str, int]
    """Task key and number of the exploration tree that it comes from."""
    length: int
    """Tokens."""
    shared: int
    """Its first tokens that the row before it in the tree has as well, in depth-first order; 0 to compute them anew."""


@dataclass(frozen=True)
class BatchLayout:
    """Rows of every mini-batch and rank."""

    cells: tuple[tuple[tuple[ExampleRow, ...], ...], ...]
    """By mini-batch, then by rank."""

    def rows_per_cell(self, multiple: int = 1) -> int:
        """Rows of a cell once padding has made them equal, as verl needs them; a multiple of `multiple`."""
        most = max(len(cell) for mini_batch in self.cells for cell in mini_batch)
        return math.ceil(most / multiple) * multiple

    def keys(self, padding: Sequence[str], multiple: int = 1) -> list[str]:
        """Keys rank by rank, and mini-batch by mini-batch within a rank, each cell filled up from `padding`."""
        size, spare = self.rows_per_cell(multiple), iter(padding)
        found: list[str] = []
        for cell in itertools.chain(*zip(*self.cells, strict=True)):
            found += [row.key for row in cell]
            found += itertools.islice(spare, size - len(cell))
        return found

    @property
    def imbalance(self) -> float:
        """Tokens of the busiest rank over the ranks' mean, in all mini-batches together; 1 is perfect."""
        tokens = [[_tokens(cell) for cell in mini_batch] for mini_batch in self.cells]
        return sum(map(max, tokens)) * len(tokens[0]) / sum(map(sum, tokens))


def lay_out(rows: Sequence[ExampleRow], *, mini_batches: int, ranks: int, draw: random.Random | None) -> BatchLayout:
    """Divide rows, given tree by tree and in depth-first order, into mini-batches, and each of them over the ranks.

    Mini-batches have equal numbers of examples, or one fewer, of trees in an order drawn by `draw` (None: as given).
    Over ranks they are divided by the tokens that are left to compute once each rank has merged what begins alike. A
    tree is only cut where a mini-batch or a rank ends within it.
    """
    trees = [list(tree) for _, tree in itertools.groupby(rows, key=lambda row: row.tree)]
    if draw:
        draw.shuffle(trees)
    ordered = list(itertools.chain(*trees))
    bounds = [len(ordered) * i // mini_batches for i in range(mini_batches + 1)]
    return BatchLayout(tuple(_over_ranks(ordered[begin:end], ranks) for begin, end in itertools.pairwise(bounds)))


def _over_ranks(rows: Sequence[ExampleRow], ranks: int) -> tuple[tuple[ExampleRow, ...], ...]:
    pieces = cut_into([row.length for row in rows], [row.shared for row in rows], ranks)
    return tuple(tuple(rows[piece.start : piece.stop]) for piece in pieces)


def _tokens(rows: Sequence[ExampleRow]) -> int:
    return merged_length([row.length for row in rows], [row.shared for row in rows], range(len(rows)))


class MiniBatchOrder:
    """A sampler for verl's data loader: whole mini-batches, in another order every epoch, the same on all ranks.

    verl's own shuffles the rows of each rank apart, which would tear trees and balanced mini-batches.
    """

    def __init__(self, mini_batches: int, rows: int, seed: int | None) -> None:
        """`rows` of a rank in each mini-batch; no `seed`, no shuffling."""
        self._mini_batches, self._rows, self._seed = mini_batches, rows, seed
        self._epoch = 0

    def __len__(self) -> int:
        return self._mini_batches * self._rows

    def __iter__(self) -> Iterator[int]:
        order = list(range(self._mini_batches))
        if self._seed is not None:
            random.Random(f"{self._seed}:{self._epoch}").shuffle(order)
        self._epoch += 1
        return itertools.chain(*(range(i * self._rows, (i + 1) * self._rows) for i in order))
