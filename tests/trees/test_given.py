"""Trees that begin at given steps: stored, shown, verified and copied as such."""

from __future__ import annotations

import dataclasses
import re

import pytest

from evaluation.given_stores import write_given, write_source
from fakes import TASK, ScriptedPolicy, World, grow
from leafe_verl.cli import main
from leafe_verl.core import ExplorationTree
from leafe_verl.trees import TreeWriter, index, read_rows, read_trees
from leafe_verl.trees.picture import build_shape
from leafe_verl.trees.schema import GIVEN
from leafe_verl.trees.verification import verify
from trees.stores import provenance, rescued


def given_tree(attempts=True):
    """A tree of which the first two steps of an attempt through the corridor are given."""
    path = grow(ScriptedPolicy(lambda m: "RLRR"[len(m) // 2]), World(), budget={"depth": 0}).attempts[0]
    bare = [dataclasses.replace(step, snapshot=None) for step in path.steps]
    tree = ExplorationTree(TASK, tuple(bare[:2]))
    if attempts:
        tree.add(dataclasses.replace(path, steps=tuple(bare[2:]), replayed_steps=2))
    return tree


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("attempts", [True, False])
def test_it_comes_back_as_it_was_stored(tmp_path, tokens, attempts):
    tree = given_tree(attempts)
    with TreeWriter(tmp_path) as writer:
        writer.append(tree, dataclasses.replace(provenance(1), has_tokens=tokens))
    ((read, _),) = read_trees(tmp_path)
    assert [s.action.text for s in read.given] == ["R", "L"]
    assert [s.history.messages for s in read.given] == [s.history.messages for s in tree.given]
    if tokens:
        assert (read.given, read.attempts) == (tree.given, tree.attempts)
    if attempts:
        previous = read.attempts[0].steps[0].history.previous
        assert previous and previous[1].text == "L", "the first own history continues the last given step"
    assert verify(tmp_path).problems == []


def test_given_steps_are_not_among_what_the_tree_executed(tmp_path):
    tree = given_tree()
    with TreeWriter(tmp_path) as writer:
        writer.append(tree, provenance(1))
    ((_, row),) = read_rows(tmp_path)
    own = tree.attempts[0].steps
    assert row["environment_steps"] == len(own) == 2
    assert row["sampled_tokens"] == sum(len(step.action.token_ids) for step in own)
    assert len(row[GIVEN]) == 2 and re.fullmatch("[0-9a-f]{16}", row["history_key"])


def test_a_history_that_was_only_continued_is_not_stored_again(tmp_path):
    with TreeWriter(tmp_path) as writer:
        writer.append(given_tree(), provenance(1))
    ((_, row),) = read_rows(tmp_path)
    histories = [step["history"] for step in [*row[GIVEN], *row["attempts"][0]["steps"]]]
    assert [len(each["new_messages"]) for each in histories] == [1, 0, 0, 0]


def test_other_stores_are_as_they_were(tmp_path):
    with TreeWriter(tmp_path) as writer:
        writer.append(rescued(), provenance(1))
        with pytest.raises(ValueError, match="begin at given steps all or none; use another writer"):
            writer.append(given_tree(), provenance(2))
    ((_, row),) = read_rows(tmp_path)
    assert row[GIVEN] is None and row["history_key"] is None


def test_the_picture_shows_the_whole_path():
    ((parent, start, returns, errors, outcome),) = build_shape(given_tree())
    assert (parent, start, list(returns), list(errors), outcome) == (None, 1, [1, 0, 1, 2], [False] * 4, "horizon")


@pytest.fixture
def evaluation(tmp_path):
    source = write_source(tmp_path / "source", {"a": ["pq-", "uv-"]})
    return write_given(tmp_path / "out", source, {"p": ["x+", "yz-"], "u": ["w-"]})


def test_show_prints_a_tree_for_each_history(evaluation, capsys):
    assert main(["trees", "show", str(evaluation), "a"]) == 0
    heads = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("   ")][2:]
    assert [re.sub("[0-9a-f]{16}", "KEY", line) for line in heads] == [
        "given history KEY, from which every root goes on:",
        "attempt 0, root: success, return 1",
        "attempt 1, root: failure, return 0",
        "given history KEY, from which every root goes on:",
        "attempt 0, root: failure, return 0",
    ]


def test_show_numbers_own_steps_after_the_given_ones(evaluation, capsys):
    main(["trees", "show", str(evaluation), "a"])
    steps = [line.split() for line in capsys.readouterr().out.splitlines() if re.match(r"\s+\d+  ", line)]
    assert steps == [["1", "p"], ["2", "x"], ["2", "y"], ["3", "z"], ["1", "u"], ["2", "w"]]


def test_the_histories_are_shown_and_listed_too(evaluation, capsys):
    assert main(["trees", "show", str(evaluation / "histories"), "a"]) == 0
    assert capsys.readouterr().out.count("given history") == 2
    assert main(["trees", "list", str(evaluation), "--where", "history_key=null"]) == 0
    assert "0 trees" in capsys.readouterr().out


def test_copies_keep_every_history(evaluation, tmp_path):
    stores = [str(evaluation), str(evaluation / "histories")]
    assert main(["trees", "merge", *stores, "--out", str(tmp_path / "merged")]) == 0
    assert len(index(tmp_path / "merged")) == len(list(read_trees(tmp_path / "merged"))) == 5
