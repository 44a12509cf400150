"""Assigns examples to mini-batches and ranks, so that what shares a prefix is adjacent and ranks have equal work."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from leafe_verl.plugin.training.prefix_tree import cut_into, merged_length, still_shared


@dataclass(frozen=True)
class ExampleRow:
    """An example, as a row of TransferQueue."""

    key: str
    """The row's key in TransferQueue."""
    tree: tuple[str, int]
    """Key of the task, and number of the exploration tree among the stored trees of that task."""
    length: int
    """Number of tokens."""
    shared: int
    """Number of leading tokens shared with the previous row of the tree, in shared-prefix order; 0 to share none."""
    joined: bool = False
    """Whether the row belongs into the mini-batch of the previous row of the tree, as the second one of a pair."""


@dataclass(frozen=True)
class BatchLayout:
    """The rows of every mini-batch on every rank."""

    cells: tuple[tuple[tuple[ExampleRow, ...], ...], ...]
    """The rows of each cell, indexed by mini-batch, then by rank."""

    def rows_per_cell(self, multiple: int = 1) -> int:
        """Return the number of rows of a cell after padding, which verl needs to be equal; a multiple of `multiple`."""
        most = max(len(cell) for mini_batch in self.cells for cell in mini_batch)
        return math.ceil(most / multiple) * multiple

    def keys(self, padding: Sequence[str], multiple: int = 1) -> list[str]:
        """Return keys ordered by rank, then by mini-batch, each cell filled up with keys of `padding`."""
        size, spare = self.rows_per_cell(multiple), iter(padding)
        found: list[str] = []
        for cell in itertools.chain(*zip(*self.cells, strict=True)):
            found += [row.key for row in cell]
            found += itertools.islice(spare, size - len(cell))
        return found

    @property
    def imbalance(self) -> float:
        """Tokens of the busiest rank over the mean of the ranks, for all mini-batches together; 1 is perfect."""
        tokens = [[_tokens(cell) for cell in mini_batch] for mini_batch in self.cells]
        return sum(map(max, tokens)) * len(tokens[0]) / sum(map(sum, tokens))


def lay_out(
    rows: Sequence[ExampleRow], *, mini_batches: int, ranks: int, draw: random.Random | None, mixed: bool = False
) -> BatchLayout:
    """Divide rows into mini-batches, and each mini-batch over the ranks.

    The numbers of examples of two mini-batches differ by at most one, where joined rows count as one example. Ranks
    are balanced by the number of tokens that they compute after merging shared prefixes.

    Args:
        rows: Rows ordered by tree, and within a tree in shared-prefix order (`sort_by_shared_prefix`).
        draw: Shuffles; None keeps the given order.
        mixed: Whether examples are shuffled, so that a mini-batch holds those of many trees. Else trees are, and one is
            cut only where a mini-batch or a rank ends within it.
    """
    examples = [*_with_joined(rows)]
    groups = [[each] for each in examples] if mixed else _by_tree(examples)
    if draw:
        draw.shuffle(groups)
    ordered = list(itertools.chain(*groups))
    bounds = [len(ordered) * i // mini_batches for i in range(mini_batches + 1)]
    parts = [list(itertools.chain(*ordered[begin:end])) for begin, end in itertools.pairwise(bounds)]
    if mixed:
        parts = [_side_by_side(rows, {row.key for row in part}) for part in parts]
    return BatchLayout(tuple(_over_ranks(part, ranks) for part in parts))


def _with_joined(rows: Sequence[ExampleRow]) -> Iterator[list[ExampleRow]]:
    """Yield each example: its row, and those that are joined to it."""
    begins = [index for index, row in enumerate(rows) if not row.joined]
    yield from (list(rows[begin:end]) for begin, end in itertools.pairwise([*begins, len(rows)]))


def _by_tree(examples: Sequence[list[ExampleRow]]) -> list[list[list[ExampleRow]]]:
    return [list(tree) for _, tree in itertools.groupby(examples, key=lambda example: example[0].tree)]


def _side_by_side(rows: Sequence[ExampleRow], keys: set[str]) -> list[ExampleRow]:
    """Return the rows of these keys in the order of all, with what each still shares with the one before it."""
    kept = [row.key in keys for row in rows]
    facts = ((row.tree, row.shared, row.length) for row in rows)
    chosen = (row for row, is_kept in zip(rows, kept, strict=True) if is_kept)
    return [replace(row, shared=shared) for row, shared in zip(chosen, still_shared(facts, kept), strict=True)]


def _over_ranks(rows: Sequence[ExampleRow], ranks: int) -> tuple[tuple[ExampleRow, ...], ...]:
    pieces = cut_into([row.length for row in rows], [row.shared for row in rows], ranks)
    return tuple(tuple(rows[piece.start : piece.stop]) for piece in pieces)


def _tokens(rows: Sequence[ExampleRow]) -> int:
    return merged_length([row.length for row in rows], [row.shared for row in rows], range(len(rows)))


class MiniBatchOrder:
    """A sampler for verl's data loader that shuffles whole mini-batches in each epoch, in the same order on all ranks.

    verl's own sampler shuffles the rows of each rank separately, which would break up trees and the balance of ranks.
    """

    def __init__(self, mini_batches: int, rows: int, seed: int | None) -> None:
        """Take the number of rows that a rank has in each mini-batch; `seed` None means no shuffling."""
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
