"""Drawing failed histories from a store, and keeping them beside the evaluation that goes on from them."""

from __future__ import annotations

import pytest

from evaluation.given_stores import histories_of, played, texts, write_given, write_source
from evaluation.stores import OUTCOMES, task, write_trees
from leafe_verl.core import ExplorationTree
from leafe_verl.evaluation.histories import (
    FirstTurns,
    draw_histories,
    find_store,
    fingerprint_histories,
    read_histories,
    write_histories,
)
from leafe_verl.trees import Provenance, TreeWriter, read_trees
from trees.stores import provenance, wandered


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source", {"b": ["xy-", "z+"], "a": ["pqh", "p+", "r+", "s-", "t+", "uvw+"]})


def test_failed_turns_that_could_go_on_are_drawn_task_by_task(source):
    drawn = draw_histories(source, 1, 4, 0)
    assert [(each.history.task, each.history.seed) for each in drawn] == [(task("a"), 5)] * 2 + [(task("b"), 5)]
    assert sorted(texts(drawn)) == ["p", "u", "x"], "s ended its attempt; p, r, t and z were right"
    assert sorted(texts(draw_histories(source, 2, 4, 0))) == ["pq", "uv"], (
        "y ended its attempt; q was only the last turn"
    )


def test_beside_each_history_stands_what_other_first_turns_solved(source):
    drawn = draw_histories(source, 1, 4, 0)
    assert [each.fresh for each in drawn] == [FirstTurns(5, 3, 2), FirstTurns(5, 3, 2), FirstTurns(1, 1, 1)]
    (lonely,) = draw_histories(write_source(source.parent / "lonely", {"a": ["xy-"]}), 1, 4, 0)
    assert lonely.fresh.share is None


def test_a_first_turn_of_another_policy_is_none_of_the_one_that_failed(tmp_path):
    with TreeWriter(tmp_path / "run") as writer:
        for at, attempts in ((1, ["xy-", "s-", "t+"]), (20, ["u+", "v+"])):
            tree = ExplorationTree(task("a"))
            for text in attempts:
                tree.add(played(text[:-1], OUTCOMES[text[-1]]))
            writer.append(tree, Provenance(run="run", step=at, seed=5, has_tokens=False))
    (drawn,) = draw_histories(tmp_path / "run", 1, 4, 0)
    assert drawn.fresh == FirstTurns(2, 1, 1), "the policy of step 20 solves it at once, but it did not fail"


def test_at_most_so_many_histories_of_each_task(source):
    assert len(draw_histories(source, 1, 1, 0)) == 2


def test_they_come_back_as_they_were_drawn(source, tmp_path):
    drawn = draw_histories(source, 1, 4, 0)
    (tmp_path / "out").mkdir()
    for _ in range(2):  # the second replaces the first
        write_histories(tmp_path / "out", drawn)
        kept = read_histories(histories_of(tmp_path / "out"))
        assert [(each.history.key, each.history.seed, each.fresh, each.provenance) for each in kept] == [
            (each.history.key, each.history.seed, each.fresh, each.provenance) for each in drawn
        ]
    assert fingerprint_histories(kept) == fingerprint_histories(drawn)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["histories"]


def test_tokens_are_kept_where_the_store_has_them(tmp_path):
    store = tmp_path / "store"
    write_source(store, {"a": ["xy-"]}, has_tokens=True, tokenizer="49-abc")
    write_source(store, {"b": ["zy-"]})
    write_histories(tmp_path, draw_histories(store, 1, 4, 0))
    first, second = read_histories(histories_of(tmp_path))
    assert first.history.steps[0].action.token_ids == (ord("x"), 4) and first.provenance.tokenizer == "49-abc"
    assert second.history.steps[0].action.token_ids == () and not second.provenance.has_tokens


def test_the_fingerprint_sees_histories_and_seeds(source, tmp_path):
    known = fingerprint_histories(draw_histories(source, 1, 4, 0))
    assert known.startswith("3, sha256 ")
    others = [draw_histories(source, 2, 4, 0), draw_histories(source, 1, 1, 0)]
    write_source(tmp_path / "other", {"b": ["xy-", "z+"], "a": ["pqh", "uvw+"]}, seed=6)
    others.append(draw_histories(tmp_path / "other", 1, 4, 0))
    assert known not in map(fingerprint_histories, others)


def test_a_store_without_a_failed_turn_says_which_and_where(source):
    with pytest.raises(
        ValueError, match=rf"--from {source}: no attempt .* failed at turn 4 .* 2 tasks; .*another --turn"
    ):
        draw_histories(source, 4, 4, 0)


def test_an_evaluation_from_given_histories_is_no_source(source, tmp_path):
    out = write_given(tmp_path / "out", source, {"x": ["yy-"]})
    with pytest.raises(ValueError, match="no attempt without experience has failed at turn 1"):
        draw_histories(out, 1, 4, 0)


def test_roots_of_trees_are_a_source(tmp_path):
    store = tmp_path / "trees"
    with TreeWriter(store) as writer:
        for number in range(8):
            writer.append(wandered(number), provenance(number))
    drawn = draw_histories(store, 1, 99, 0)
    roots = {
        attempt.steps[0].action.text
        for tree, _ in read_trees(store)
        for attempt in tree.attempts
        if attempt.branch is None and len(attempt.steps) > 1 and attempt.steps[0].failed
    }
    assert set(texts(drawn)) >= roots and roots


def test_the_store_of_a_run_and_of_an_evaluation_are_found(source, tmp_path):
    run_dir = tmp_path / "run"
    write_source(run_dir / "checkpoints" / "trees", {"a": ["xy-"]})
    assert find_store(run_dir) == run_dir / "checkpoints" / "trees"
    assert find_store(source) == source
    with pytest.raises(ValueError, match="--from .*: no store; expected the --out of leafe-verl evaluate"):
        find_store(tmp_path / "nothing", "--from")


def test_a_tree_without_a_seed_is_refused(tmp_path):
    store = write_source(tmp_path / "store", {"a": ["xy-"]}, seed=None)
    with pytest.raises(ValueError, match="task 'a' does not say which seed its environment had"):
        draw_histories(store, 1, 4, 0)


def test_an_evaluation_of_trees_is_a_source_if_its_roots_went_on(tmp_path):
    with pytest.raises(ValueError, match="no attempt without experience"):
        draw_histories(write_trees(tmp_path / "trees", {"a": "--"}), 1, 4, 0)
