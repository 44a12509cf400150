"""Merges token sequences that begin alike into a prefix tree, so that shared tokens are computed once.

a b c d                        a b c d
a b e         becomes              e f         token_ids   a  b  c  d  e  f
a b e f                                        parents    -1  0  1  2  1  4
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from leafe_verl.core.shared_prefix import sort_by_shared_prefix


@dataclass(frozen=True)
class PrefixTree:
    """The merged sequences. Each token appears once, and after all tokens that it follows."""

    token_ids: tuple[int, ...]
    """The tokens, in the order in which `sort_by_shared_prefix` meets them."""
    parents: tuple[int, ...]
    """For each token, the place of the token before it; -1 for the first token of a sequence."""
    paths: tuple[tuple[int, ...], ...]
    """For each merged sequence, in the order in which they were given, the places of its tokens."""


@dataclass(frozen=True)
class Segment:
    """Adjacent tokens of a prefix tree, each of which follows the one before it."""

    begin: int
    """Place of the first token."""
    end: int
    """Place after the last token."""
    before: tuple[int, ...]
    """Places of all earlier tokens of the sequence, first to last."""


def merge(sequences: Sequence[tuple[int, ...]]) -> PrefixTree:
    """Merge sequences into a prefix tree."""
    token_ids: list[int] = []
    parents: list[int] = []
    paths: list[tuple[int, ...]] = [()] * len(sequences)
    path: list[int] = []
    for index, shared in sort_by_shared_prefix(sequences):
        own = sequences[index][shared:]
        path = [*path[:shared], *range(len(token_ids), len(token_ids) + len(own))]
        parents += [-1, *path][shared : len(path)]
        token_ids += own
        paths[index] = tuple(path)
    return PrefixTree(tuple(token_ids), tuple(parents), tuple(paths))


def split_segments(parents: Sequence[int]) -> list[Segment]:
    """Split a prefix tree, given by its `PrefixTree.parents`, wherever a token does not follow the adjacent one."""
    begins = [place for place, parent in enumerate(parents) if place == 0 or parent != place - 1]
    found: list[Segment] = []
    for begin, end in itertools.pairwise([*begins, len(parents)]):
        before: tuple[int, ...] = ()
        if (parent := parents[begin]) >= 0:
            earlier = found[bisect.bisect_right(begins, parent) - 1]
            before = (*earlier.before, *range(earlier.begin, parent + 1))
        found.append(Segment(begin, end, before))
    return found


def merged_length(lengths: Sequence[int], shared: Sequence[int], piece: range) -> int:
    """Return the number of tokens of the prefix tree of some adjacent sequences.

    Args:
        lengths: Number of tokens of each sequence, in shared-prefix order (`sort_by_shared_prefix`).
        shared: Number of leading tokens that each sequence shares with the one before it.
        piece: Indices of the sequences to merge.
    """
    return sum(lengths[i] - (shared[i] if i > piece.start else 0) for i in piece)


def cut_at(lengths: Sequence[int], shared: Sequence[int], limit: int) -> list[range]:
    """Cut sequences into the fewest pieces that merge to at most `limit` tokens each.

    `lengths` and `shared` are those of `merged_length`. A sequence longer than `limit` becomes a piece of its own.
    """
    begins, tokens = [0], 0
    for i, length in enumerate(lengths):
        tokens += length - (shared[i] if i > begins[-1] else 0)
        if tokens > limit and i > begins[-1]:
            begins.append(i)
            tokens = length
    return [range(*pair) for pair in itertools.pairwise([*begins, len(lengths)])]


def cut_into(lengths: Sequence[int], shared: Sequence[int], parts: int) -> list[range]:
    """Cut sequences into `parts` pieces so that the largest merges to as few tokens as possible.

    `lengths` and `shared` are those of `merged_length`. Tokens that two pieces share are counted in both. The last
    pieces are empty if fewer suffice.
    """
    least, most = max(lengths, default=0), sum(lengths)
    while least < most:
        limit = (least + most) // 2
        if len(cut_at(lengths, shared, limit)) <= parts:
            most = limit
        else:
            least = limit + 1
    pieces = cut_at(lengths, shared, least)
    return pieces + [range(len(lengths), len(lengths))] * (parts - len(pieces))


def still_shared(rows: Iterable[tuple[Hashable, int, int]], kept: Sequence[bool]) -> Iterator[int]:
    """Yield how many leading tokens each kept row shares with the kept row before it in its tree; 0 for a tree's first.

    Where rows between two are left out, that is the least of what these, and the second, share with the row before.

    Args:
        rows: Tree, tokens shared with the row before, and length of each row, in shared-prefix order.
        kept: Whether each row is kept.
    """
    last, shared = None, 0
    for (tree, with_last, length), is_kept in zip(rows, kept, strict=True):
        shared = min(shared, with_last) if tree == last else 0
        last = tree
        if is_kept:
            yield shared
            shared = length
