"""The report of an evaluation whose attempts go on from given histories."""

from __future__ import annotations

import pytest

from evaluation.given_stores import write_given, write_source
from leafe_verl.report.overview import build_overview
from leafe_verl.report.records import build_record
from leafe_verl.report.runs import find_run


@pytest.fixture
def run(tmp_path):
    source = write_source(tmp_path / "source", {"a": ["pq-", "uv-", "r+"], "b": ["xy-"]})
    return find_run(write_given(tmp_path / "out", source, {"p": ["a+", "pb+"], "u": ["a-"], "x": ["a-"]}))


def test_its_figures_are_those_of_recovery(run):
    overview = build_overview(run, run.counts)
    assert overview["figures"][0] == ["solved at the next turn", "16.7 %", "0.0 to 25.0, 2 tasks"]
    assert ["solved by a fresh first turn of the policy that failed", "50.0 %", "50.0 to 50.0, 1 task"] in (
        overview["figures"]
    )
    assert not any("Pass@" in label or "exploring" in label for label, *_ in overview["figures"])
    recovery, spent = overview["tables"]
    assert recovery["title"] == "From the same failures: 3 histories of 2 tasks, whose turn 1 has failed"
    assert ["solved within the horizon of 4 turns", "33.3", "0.0 to 50.0", "2"] in recovery["rows"]
    assert ["replayed steps", "4"] in spent["rows"] and ["environment steps", "5"] in spent["rows"]
    assert "Every attempt goes on from one of 3 histories of 2 tasks, whose turn 1 has failed." in run.notes


def test_attempts_from_one_history_are_one_tree_with_its_steps_marked(run):
    trees = list(run.trees)
    assert sorted(len(each.tree.attempts) for each in trees) == [1, 1, 2]
    (both,) = [each for each in trees if len(each.tree.attempts) == 2]
    record, _ = build_record(both)
    assert record["given"] == 1 and record["hasPrompts"]
    assert [[step["action"] for step in attempt["steps"]] for attempt in record["attempts"]] == [
        ["p", "a"],
        ["p", "p", "b"],
    ]
    assert [len(step["messages"]) for step in record["attempts"][1]["steps"]] == [1, 0, 0]
    assert [attempt["replayed"] for attempt in record["attempts"]] == [1, 1]
