"""The store: what a line holds, what resuming still lacks, and what a killed process leaves behind."""

import json

import pytest

from evaluation.stores import attempt, task, write_store, write_trees
from leafe_verl.core import ExplorationTree, Outcome
from leafe_verl.evaluation.attempts import (
    AttemptWriter,
    missing_attempts,
    read_records,
    record_of,
    results_of,
    total_counts,
)


def lines(store):
    return [json.loads(line) for path in store.glob("attempts-*.jsonl") for line in path.read_text().splitlines()]


def test_a_plain_attempt_is_a_tree_of_one(tmp_path):
    (line,) = lines(write_store(tmp_path, {"a": "+"}))
    counts = line.pop("counts")
    assert line == {
        "schema": 1,
        "key": "a",
        "environment": "corridor",
        "seed": 0,
        "attempts": [
            {
                "branch": None,
                "outcome": "success",
                "error": None,
                "return": 0.5,
                "success": True,
                "steps": [{"action": "go", "observation": "seen", "reward": 0.5, "error": False, "tokens": 3}],
                "sampled_tokens": 3,
            }
        ],
        "reflections": [],
    }
    assert (counts["attempts"], counts["environment_steps"], counts["sampled_tokens"]) == (1, 1, 3)


def test_a_tree_keeps_its_branches_and_reflections(tmp_path):
    (line,) = lines(write_trees(tmp_path, {"a": "-+"}))
    root, branch = line["attempts"]
    assert root["branch"] is None
    assert branch["branch"] == {"parent": 0, "step": 1, "depth": 1, "parsed": True, "experience": "Turn left."}
    (reflection,) = line["reflections"]
    assert reflection == {
        "attempt": 0,
        "step": 1,
        "experience": "Turn left.",
        "parsed": True,
        "text": "{}",
        "tokens": 3,
    }
    (record,) = read_records(tmp_path)
    assert record.solved and record.outcomes == (Outcome.FAILURE, Outcome.SUCCESS)


def test_text_that_utf8_cannot_hold_is_kept(tmp_path):
    tree = ExplorationTree(task("a"))
    tree.add(attempt(Outcome.FAILURE, text="lone \ud83d, line\u2028break"))
    AttemptWriter(tmp_path).append(record_of(tree, [], seed=0))
    (line,) = lines(tmp_path)
    assert line["attempts"][0]["steps"][0]["action"] == "lone \ud83d, line\u2028break"


def test_every_process_writes_a_file_of_its_own(tmp_path):
    write_store(write_store(tmp_path, {"a": "+"}), {"a": "-", "b": "+"})
    assert len(list(tmp_path.glob("attempts-*.jsonl"))) == 2
    assert len(read_records(tmp_path)) == 3


def test_unscored_attempts_are_kept_apart_and_tried_again(tmp_path):
    records = read_records(write_store(tmp_path, {"a": "+-?", "b": "??", "c": "h+-+"}))
    results = results_of(records)
    assert {key: sorted(found) for key, found in results.items()} == {
        "a": [False, True],
        "c": [False, False, True, True],
    }
    assert missing_attempts(records, ["a", "b", "c", "d"], 4) == {"a": 2, "b": 4, "d": 4}
    counts = total_counts(records)
    assert (counts["attempts"], counts["attempts_scored"], counts["outcome/environment_failure"]) == (9, 6, 3)


def test_a_higher_number_of_attempts_extends(tmp_path):
    records = read_records(write_store(tmp_path, {"a": "+-+-", "b": "++++"}))
    assert missing_attempts(records, ["a", "b"], 4) == {}
    assert missing_attempts(records, ["a", "b"], 3) == {}
    assert missing_attempts(records, ["a", "b"], 6) == {"a": 2, "b": 2}


def test_a_line_cut_short_is_passed_over_with_a_warning(tmp_path, caplog):
    write_store(tmp_path, {"a": "+-"})
    (path,) = tmp_path.glob("attempts-*.jsonl")
    path.write_text(path.read_text()[:-40])
    records = read_records(tmp_path)
    assert f"{path}: the last line was cut short" in caplog.text
    assert [record.solved for record in records] == [True]
    assert missing_attempts(records, ["a"], 2) == {"a": 1}


def test_a_broken_line_elsewhere_is_refused(tmp_path):
    write_store(tmp_path, {"a": "+-"})
    (path,) = tmp_path.glob("attempts-*.jsonl")
    path.write_text("{broken\n" + path.read_text())
    with pytest.raises(ValueError, match=r"attempts-.*line 1: no record of schema 1"):
        read_records(tmp_path)


def test_another_schema_is_refused(tmp_path):
    (tmp_path / "attempts-x.jsonl").write_text('{"schema": 2, "key": "a"}\n')
    with pytest.raises(ValueError, match="it is of schema 2"):
        read_records(tmp_path)


def test_a_folder_without_attempts_holds_none(tmp_path):
    assert read_records(tmp_path / "nowhere") == []
