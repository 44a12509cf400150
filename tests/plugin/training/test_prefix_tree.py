"""Prefix trees: which tokens are merged, what each token follows, and how sequences are cut into balanced pieces."""

from __future__ import annotations

import itertools
import random

import pytest

from leafe_verl.core.shared_prefix import sort_by_shared_prefix
from leafe_verl.plugin.training.prefix_tree import Segment, cut_at, cut_into, merge, merged_length, split_segments

A, B, C, D, E, F = range(6)


def random_sequences(seed):
    """Up to 12 ragged sequences that often begin alike, some of them equal, some the beginning of another."""
    draw = random.Random(seed)
    found = [tuple(draw.choices(range(3), k=draw.randrange(1, 9)))]
    for _ in range(draw.randrange(12)):
        stem = draw.choice(found)
        found.append(stem[: draw.randrange(len(stem) + 1)] + tuple(draw.choices(range(3), k=draw.randrange(1, 9))))
    return found + found[:1]


def costs(lengths, shared, pieces):
    return [merged_length(lengths, shared, piece) for piece in pieces]


def test_what_begins_alike_stands_once():
    tree = merge([(A, B, E), (A, B, C, D), (A, B, E, F)])
    assert tree.token_ids == (A, B, C, D, E, F)
    assert tree.parents == (-1, 0, 1, 2, 1, 4)
    assert tree.paths == ((0, 1, 4), (0, 1, 2, 3), (0, 1, 4, 5))
    assert split_segments(tree.parents) == [Segment(0, 4, ()), Segment(4, 6, (0, 1))]


def test_one_sequence_is_a_tree_without_forks():
    tree = merge([(C, A, A)])
    assert (tree.token_ids, tree.parents, tree.paths) == ((C, A, A), (-1, 0, 1), ((0, 1, 2),))
    assert split_segments(tree.parents) == [Segment(0, 3, ())]


def test_nothing_merges_to_nothing():
    assert merge([]).token_ids == ()
    assert split_segments([]) == []


def test_sequences_with_nothing_in_common_stand_side_by_side():
    tree = merge([(B, A), (A, B)])
    assert tree.parents == (-1, 0, -1, 2)
    assert split_segments(tree.parents) == [Segment(0, 2, ()), Segment(2, 4, ())]


@pytest.mark.parametrize("seed", range(40))
def test_every_sequence_is_found_along_its_path(seed):
    sequences = random_sequences(seed)
    tree = merge(sequences)
    for sequence, path in zip(sequences, tree.paths, strict=True):
        assert tuple(tree.token_ids[place] for place in path) == tuple(sequence)
        assert [tree.parents[place] for place in path] == [-1, *path[:-1]]
    prefixes = {tuple(sequence[:end]) for sequence in sequences for end in range(1, len(sequence) + 1)}
    assert len(tree.token_ids) == len(prefixes)


@pytest.mark.parametrize("seed", range(40))
def test_segments_know_what_they_follow(seed):
    tree = merge(random_sequences(seed))
    found = {}
    for segment in split_segments(tree.parents):
        for place in range(segment.begin, segment.end):
            found[place] = (*segment.before, *range(segment.begin, place + 1))
    assert sorted(found) == list(range(len(tree.token_ids)))
    for path in tree.paths:
        for end, place in enumerate(path, 1):
            assert found[place] == path[:end]


@pytest.mark.parametrize("seed", range(40))
def test_lengths_and_what_is_shared_give_the_size_of_the_tree(seed):
    sequences = random_sequences(seed)
    order = sort_by_shared_prefix(sequences)
    lengths, shared = [len(sequences[i]) for i, _ in order], [common for _, common in order]
    for begin, end in itertools.combinations(range(len(order) + 1), 2):
        piece = [sequences[i] for i, _ in order[begin:end]]
        assert merged_length(lengths, shared, range(begin, end)) == len(merge(piece).token_ids)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_the_largest_piece_is_as_small_as_it_can_be(seed, parts):
    sequences = random_sequences(seed)[:8]
    order = sort_by_shared_prefix(sequences)
    lengths, shared = [len(sequences[i]) for i, _ in order], [common for _, common in order]
    pieces = cut_into(lengths, shared, parts)
    assert len(pieces) == parts
    assert [i for piece in pieces for i in piece] == list(range(len(sequences)))
    tried = [
        max(costs(lengths, shared, [range(*pair) for pair in itertools.pairwise([0, *cuts, len(sequences)])]))
        for cuts in itertools.combinations_with_replacement(range(len(sequences) + 1), parts - 1)
    ]
    assert max(costs(lengths, shared, pieces)) == min(tried)


def test_a_piece_may_reach_the_limit_and_not_pass_it():
    lengths, shared = [4, 4, 4, 4], [0, 2, 3, 0]
    assert cut_at(lengths, shared, 7) == [range(0, 3), range(3, 4)]
    assert cut_at(lengths, shared, 6) == [range(0, 2), range(2, 3), range(3, 4)]
    assert cut_at(lengths, shared, 4) == [range(0, 1), range(1, 2), range(2, 3), range(3, 4)]


def test_more_parts_than_sequences_leave_empty_ones():
    assert cut_into([3], [0], 3) == [range(0, 1), range(1, 1), range(1, 1)]
    assert cut_into([], [], 2) == [range(0, 0), range(0, 0)]
