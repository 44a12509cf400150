"""The table that leafe-verl evaluate prints."""

from evaluation.stores import MANIFEST, write_store, write_trees
from leafe_verl.evaluation.manifest import read_manifest
from leafe_verl.evaluation.report import render_evaluation
from leafe_verl.evaluation.results import read_evaluation


def rows(store):
    return [line.split() for line in render_evaluation(read_manifest(store), read_evaluation(store)).splitlines()]


def test_pass_at_k_beside_what_it_rests_on(tmp_path):
    table = rows(write_store(tmp_path, {"a": "+-+-", "b": "----", "c": "++?"}))
    assert ["Pass@1", "50.0", "0.0", "to", "100.0", "3"] in table
    assert not [row for row in table if row[:1] == ["Pass@4"]], "c has two scored attempts"
    assert ["scored", "attempts", "10"] in table
    assert ["succeeded", "4"] in table and ["failed", "6"] in table
    assert ["unscored", "attempts", "1"] in table and ["environment_failure", "1"] in table
    assert ["actions", "stopped", "by", "a", "time", "limit", "0"] in table
    assert ["environment", "steps", "11"] in table and ["sampled", "tokens", "33"] in table


def test_attempts_beyond_those_that_were_asked_for_make_no_curve_of_their_own(tmp_path):
    table = rows(write_store(tmp_path, {"a": "+-+-" * 3, "b": "----"}))
    assert max(int(name.removeprefix("Pass@")) for name, *_ in filter(None, table) if name.startswith("Pass@")) == 4


def test_trees_are_reported_by_what_is_solved_within_the_budget(tmp_path):
    table = rows(write_trees(tmp_path, {"a": "-+", "b": "--"}))
    assert ["solved", "within", "the", "budget", "50.0", "0.0", "to", "100.0", "2"] in table
    assert ["scored", "attempts", "4"] in table


def test_nothing_scored_is_said(tmp_path):
    assert render_evaluation(MANIFEST, []).startswith("no scored attempt yet")
    assert "Pass@" not in render_evaluation(MANIFEST, read_evaluation(write_store(tmp_path, {"a": "?"})))
