"""Mini-batches hold every example once, keep shared prefixes together, and balance the computed tokens of ranks."""

from __future__ import annotations

import itertools
import random

import pytest

from leafe_verl.plugin.training.batches import ExampleRow, MiniBatchOrder, lay_out


def tree(name, *rows):
    """Rows of (length, shared with the one before)."""
    return [ExampleRow(f"{name}{i}", (name, 0), length, shared) for i, (length, shared) in enumerate(rows)]


def random_trees(seed):
    draw = random.Random(seed)
    return [
        tree(f"t{n}.", *((draw.randrange(20, 90), draw.randrange(20) if i else 0) for i in range(draw.randrange(1, 7))))
        for n in range(draw.randrange(1, 9))
    ]


def keys_of(layout):
    return [[[row.key for row in cell] for cell in mini_batch] for mini_batch in layout.cells]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_example_is_once_in_mini_batches_of_equal_size(seed, ranks):
    rows = list(itertools.chain(*random_trees(seed)))
    mini_batches = -(-len(rows) // 4)
    layout = lay_out(rows, mini_batches=mini_batches, ranks=ranks, draw=random.Random(seed))
    assert sorted(row.key for row in itertools.chain(*itertools.chain(*layout.cells))) == sorted(r.key for r in rows)
    sizes = [sum(map(len, mini_batch)) for mini_batch in layout.cells]
    assert len(sizes) == mini_batches and max(sizes) <= 4 and max(sizes) - min(sizes) <= 1
    assert {len(mini_batch) for mini_batch in layout.cells} == {ranks}


@pytest.mark.parametrize("seed", range(20))
def test_the_order_is_drawn_by_trees(seed):
    trees = random_trees(seed)
    rows = list(itertools.chain(*trees))
    drawn = lay_out(rows, mini_batches=1, ranks=1, draw=random.Random(seed)).cells[0][0]
    grouped = [list(group) for _, group in itertools.groupby(drawn, key=lambda row: row.tree)]
    assert sorted(grouped, key=lambda group: group[0].key) == trees
    assert lay_out(rows, mini_batches=1, ranks=1, draw=None).cells[0][0] == tuple(rows)


def shared_before(rows, keys):
    """What each row of `keys` shares with the one before it in `keys`, worked out from whole sequences."""
    texts, found, last = {}, [], None
    for before, row in zip([None, *rows], rows, strict=False):
        head = texts[before.key][: row.shared] if before and before.tree == row.tree else ()
        texts[row.key] = (*head, *((row.key, number) for number in range(row.length - len(head))))
        if row.key in keys:
            pairs = zip(texts[last], texts[row.key], strict=False) if last else ()
            found.append((row.key, sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))))
            last = row.key
    return found


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ranks", [1, 2])
def test_mixed_mini_batches_hold_every_example_once_with_what_they_still_share(seed, ranks):
    rows = list(itertools.chain(*random_trees(seed)))
    mini_batches = -(-len(rows) // 4)
    layout = lay_out(rows, mini_batches=mini_batches, ranks=ranks, draw=random.Random(seed), mixed=True)
    assert sorted(row.key for row in itertools.chain(*itertools.chain(*layout.cells))) == sorted(r.key for r in rows)
    for mini_batch in layout.cells:
        drawn = list(itertools.chain(*mini_batch))
        assert len(drawn) <= 4
        assert [(row.key, row.shared) for row in drawn] == shared_before(rows, {row.key for row in drawn})


def test_a_mixed_mini_batch_is_of_many_trees():
    rows = list(itertools.chain(*(tree(f"t{n}.", *[(50, 40)] * 4) for n in range(16))))
    for mixed, expected in ((False, 1), (True, 3)):
        layout = lay_out(rows, mini_batches=16, ranks=1, draw=random.Random(0), mixed=mixed)
        trees = [len({row.tree for row in cell}) for (cell,) in layout.cells]
        assert sum(trees) / len(trees) >= expected and (mixed or max(trees) == 1)


def test_ranks_are_balanced_by_what_is_left_to_compute():
    # Four rows of 100 tokens share 90: 130 to compute. Alone they would weigh as much as all others together.
    deep, flat = tree("deep", (100, 0), (100, 90), (100, 90), (100, 90)), tree("flat", (65, 0), (65, 0))
    layout = lay_out(deep + flat, mini_batches=1, ranks=2, draw=None)
    assert keys_of(layout) == [[["deep0", "deep1", "deep2", "deep3"], ["flat0", "flat1"]]]
    assert layout.imbalance == 1.0


def test_a_tree_larger_than_a_rank_s_share_is_cut():
    layout = lay_out(tree("t", *[(50, 0)] + [(50, 10)] * 3), mini_batches=1, ranks=2, draw=None)
    assert keys_of(layout) == [[["t0", "t1"], ["t2", "t3"]]]


def test_imbalance_is_the_busiest_rank_over_the_mean():
    layout = lay_out(tree("t", (90, 0)) + tree("u", (30, 0)), mini_batches=1, ranks=2, draw=None)
    assert layout.imbalance == pytest.approx(90 / 60)


def test_cells_are_filled_up_rank_by_rank():
    rows = tree("a", (9, 0)) + tree("b", (3, 0), (3, 0), (3, 0)) + tree("c", (5, 0))
    layout = lay_out(rows, mini_batches=1, ranks=2, draw=None)
    assert keys_of(layout) == [[["a0", "b0"], ["b1", "b2", "c0"]]]
    size = layout.rows_per_cell(2)
    padding = [f"p{i}" for i in range(2 * size - len(rows))]
    keys = layout.keys(padding, 2)
    assert size % 2 == 0 and len(keys) == 2 * size and sorted(keys) == sorted([r.key for r in rows] + padding)
    first, second = (set(keys[:size]), set(keys[size:]))
    for cell, held in zip(layout.cells[0], (first, second), strict=True):
        assert {row.key for row in cell} <= held


def test_a_rank_s_mini_batches_follow_each_other():
    rows = tree("a", (5, 0)) + tree("b", (5, 0)) + tree("c", (5, 0)) + tree("d", (5, 0))
    layout = lay_out(rows, mini_batches=2, ranks=2, draw=None)
    assert layout.keys([]) == ["a0", "c0", "b0", "d0"]


def test_fewer_examples_than_ranks_leave_ranks_without():
    layout = lay_out(tree("a", (5, 0)), mini_batches=1, ranks=3, draw=None)
    assert keys_of(layout) == [[["a0"], [], []]]
    assert layout.keys(["p0", "p1"]) == ["a0", "p0", "p1"]


def test_mini_batches_stay_whole_in_every_epoch_and_on_every_rank():
    order, other_rank = MiniBatchOrder(8, 3, seed=1), MiniBatchOrder(8, 3, seed=1)
    epochs = [list(order) for _ in range(4)]
    assert epochs == [list(other_rank) for _ in range(4)]
    for epoch in epochs:
        batches = [epoch[i : i + 3] for i in range(0, 24, 3)]
        assert sorted(batches) == [[i, i + 1, i + 2] for i in range(0, 24, 3)]
    assert len(order) == 24 and len({tuple(epoch) for epoch in epochs}) > 1
    assert list(MiniBatchOrder(2, 2, seed=None)) == [0, 1, 2, 3]
