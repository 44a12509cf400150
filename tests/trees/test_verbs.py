"""`leafe-verl trees`, from the command line to what it prints and writes."""

import json
import re

import pyarrow as pa
import pytest

from evaluation.stores import write_store
from leafe_verl.cli import main
from leafe_verl.trees import index, read_trees
from leafe_verl.trees.reader import batches
from leafe_verl.trees.rows import to_row
from leafe_verl.trees.schema import SCHEMA
from trees.stores import provenance, rescued, wandered, write


def run(*arguments):
    return main(["trees", *map(str, arguments)])


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    write(folder, (rescued("601"), provenance(1)), (rescued("602"), provenance(1)))
    write(folder, (rescued("601"), provenance(2)))
    return folder


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_list(store, capsys):
    assert run("list", store) == 0
    assert lines(capsys) == [
        "step  task  attempts  branches  improved  solved  best return",
        "1     601   2         1         1         yes     3",
        "1     602   2         1         1         yes     3",
        "2     601   2         1         1         yes     3",
        "3 trees, 3 solved",
    ]
    assert run("list", store, "--where", "step=1", "--where", "task_key=602") == 0
    assert [line.split()[:2] for line in lines(capsys)[1:-1]] == [["1", "602"]]


def test_list_names_the_runs_of_a_store_of_many(store, capsys):
    write(store, (rescued("601"), provenance(1, run="second")))
    run("list", store)
    assert [line.split()[0] for line in lines(capsys)] == ["run", "first", "first", "first", "second", "4"]


def test_show(store, capsys):
    assert run("show", store, "601", "--step", "2") == 0
    assert lines(capsys) == [
        "task 601 (corridor): Walk to the end.",
        "run first, step 2, seed 0, model tiny, weights of steps 0 to 2, 2026-01-02 03:04:05.678901+00:00",
        "attempt 0, root: horizon, return 0",
        "   1  R",
        "      feedback, reward 1: 1",
        "   2  J",
        "      feedback, reward -1: #",
        "   3  R",
        "      feedback, reward 0: #",
        "   4  R",
        "      feedback, reward 0: #",
        "  reflection after 4 steps: tau 2",
        "      do not jump",
        "      attempt 1, rolled back to step 2: success, return 3, improved",
        "         2  R",
        "            feedback, reward 1: 2",
        "         3  R",
        "            feedback, reward 1: 3",
    ]


def test_an_evaluation_is_listed_and_shown_and_not_exported(tmp_path, capsys):
    store = write_store(tmp_path / "evaluation", {"a": "+-"})
    assert run("list", store, "--where", "solved=true") == 0
    assert lines(capsys)[-1] == "1 trees, 1 solved"
    assert run("show", store, "a") == 0
    shown = lines(capsys)
    assert shown[0] == "task a (corridor): Do a."
    assert [line.split(",")[0] for line in shown if line.startswith("attempt")] == ["attempt 0", "attempt 1"]
    assert run("verify", store) == 0
    counted = "2 attempts, 0 branches, 0 reflections, 0 recovery targets, 6 sampled tokens"
    assert lines(capsys)[-1].endswith(f"{counted}; 0 problems")
    assert run("filter", store, "--where", "solved=false", "--out", tmp_path / "failures") == 0
    assert lines(capsys)[-1].endswith("1 of 2 trees, 0 duplicates dropped")
    assert run("export", store, "--out", tmp_path / "examples.jsonl") == 1
    assert "stored without tokens, as evaluations are" in capsys.readouterr().err


def test_show_needs_one_tree(store, capsys):
    assert run("show", store, "601") == 1
    assert "2 trees of task '601': run first step 1, run first step 2; choose by --step" in capsys.readouterr().err
    assert run("show", store, "99") == 1
    assert "no tree of task '99'; `leafe-verl trees list" in capsys.readouterr().err


def test_show_prints_every_attempt_and_obeys_no_model(tmp_path, capsys):
    tree = wandered(1)
    hostile = rescued("evil", experience="\x1b[2J gone")
    write(tmp_path, (tree, provenance(1)), (hostile, provenance(1)))
    run("show", tmp_path, "corridor-3")
    shown = [line.split()[1].rstrip(",") for line in lines(capsys) if line.split()[0] == "attempt"]
    assert sorted(map(int, shown)) == list(range(len(tree.attempts)))
    run("show", tmp_path, "evil")
    assert "\x1b" not in capsys.readouterr().out


def test_filter(store, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("filter", store, "--where", "step=1", "--out", out) == 0
    assert lines(capsys) == [f"{out}: 2 of 3 trees, 0 duplicates dropped"]
    assert [tree.task.key for tree, _ in read_trees(out)] == ["601", "602"]
    assert run("filter", store, "--out", out) == 1
    assert "already holds trees-" in capsys.readouterr().err


def test_merge_compacts_and_drops_duplicates(store, tmp_path, capsys):
    other, out = tmp_path / "other", tmp_path / "out"
    write(other, (rescued("602"), provenance(1)), (rescued("603"), provenance(1)))
    assert run("merge", store, other, "--out", out) == 0
    assert lines(capsys) == [f"{out}: 4 of 5 trees, 1 duplicates dropped"]
    assert len(list(out.iterdir())) == 1
    assert sorted((key.step, key.task_key) for key in index(out)) == [(1, "601"), (1, "602"), (1, "603"), (2, "601")]
    assert run("merge", store, tmp_path / "nowhere", "--out", tmp_path / "more") == 1
    assert "nowhere: no store" in capsys.readouterr().err


def test_merge_keeps_columns_that_it_does_not_know(store, tmp_path):
    schema = SCHEMA.append(pa.field("weather", pa.string()))
    record = pa.RecordBatch.from_pylist([{**to_row(rescued("7"), provenance()), "weather": "fine"}], schema=schema)
    with pa.ipc.new_stream(str(store / "trees-future.arrow"), schema) as stream:
        stream.write_batch(record)
    out = tmp_path / "out"
    run("merge", store, "--out", out)
    found = [row for path in out.iterdir() for _, batch in batches(path) for row in batch.to_pylist()]
    assert len(found) == 4 and len(list(out.iterdir())) == 2
    assert [row["weather"] for row in found if "weather" in row] == ["fine"]


def test_verify_counts(store, capsys):
    assert run("verify", store) == 0
    counted = "2 files, 3 trees, 0 duplicates, 6 attempts, 3 branches, 3 reflections"
    assert lines(capsys) == [f"{counted}, 0 recovery targets, 159 sampled tokens; 0 problems"]


def test_verify_takes_paths_whose_window_moved(tmp_path, capsys):
    write(tmp_path, (wandered(0, context={"window": 1}), provenance()))
    assert run("verify", tmp_path) == 0
    assert lines(capsys)[-1].endswith("; 0 problems")


def edited(change):
    row = to_row(rescued(), provenance())
    change(row)
    return row


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda row: row.update(num_attempts=3), "the tree contradicts its columns num_attempts"),
        (lambda row: row["attempts"][1]["branch"].update(parent=1), "no step 2 in attempt 1"),
        (lambda row: row["attempts"][1]["branch"].update(depth=2), "attempt 1 is of depth 2, unlike its parent"),
        (lambda row: row["attempts"][1]["branch"].update(reflection=4), "no tree .*IndexError"),
        (lambda row: row["attempts"][0].update(outcome="bored"), "'bored' is not a valid Outcome"),
        (lambda row: row["attempts"][0]["steps"][1]["history"].update(shared_tokens=99), "shares 99 tokens"),
        (lambda row: row["attempts"][0]["steps"][3]["history"].update(shared_tokens=3), "are not a prefix of its path"),
        (lambda row: row.update(task_data="{"), "Expecting property name"),
    ],
)
def test_verify_says_what_is_wrong(tmp_path, capsys, change, said):
    with pa.ipc.new_stream(str(tmp_path / "trees-odd.arrow"), SCHEMA) as stream:
        for row in (edited(change), edited(lambda row: None)):
            stream.write_batch(pa.RecordBatch.from_pylist([row], schema=SCHEMA))
    assert run("verify", tmp_path) == 1
    problem, counts = lines(capsys)
    assert "trees-odd.arrow, byte" in problem and re.search(said, problem)
    assert "1 trees" in counts and counts.endswith("1 problems")


def test_repair_cuts_a_file_to_its_whole_trees_and_keeps_the_rest(store, capsys):
    path = sorted(store.iterdir(), key=lambda file: file.stat().st_size)[-1]
    content = path.read_bytes()
    path.write_bytes(content[:-50])
    assert run("verify", store) == 1
    assert "behind 1 whole records" in lines(capsys)[0]
    assert run("verify", store, "--repair") == 0
    cut, counts = lines(capsys)
    assert cut == f"{path}: cut to 1 whole trees; the rest is in {path.name}.rest"
    assert counts.startswith("2 files, 2 trees")
    (rest,) = store.glob("*.rest")
    assert path.read_bytes()[:-8] + rest.read_bytes() == content[:-50]
    assert run("verify", store) == 0


def test_a_second_repair_of_a_file_keeps_the_rest_of_the_first(store):
    path = sorted(store.iterdir(), key=lambda file: file.stat().st_size)[-1]
    path.write_bytes(path.read_bytes()[:-50])
    assert run("verify", store, "--repair") == 0
    (first,) = store.glob("*.rest")
    kept = first.read_bytes()
    path.write_bytes(path.read_bytes()[:-30])
    assert run("verify", store, "--repair") == 0
    assert first.read_bytes() == kept and len([*store.glob("*.rest*")]) == 2


def test_repair_removes_a_file_without_a_whole_schema(store, capsys):
    (store / "trees-empty.arrow").write_bytes(b"\xff\xff")
    assert run("verify", store, "--repair") == 0
    assert not (store / "trees-empty.arrow").exists() and (store / "trees-empty.arrow.rest").exists()


def test_another_version_is_refused_by_every_verb(store, tmp_path, capsys):
    other = SCHEMA.with_metadata({"leafe_schema": "2"})
    with pa.ipc.new_stream(str(store / "trees-new.arrow"), other):
        pass
    for arguments in (["list", store], ["merge", store, "--out", tmp_path / "o"], ["verify", store, "--repair"]):
        assert run(*arguments) == 1
        out, err = capsys.readouterr()
        assert "leafe_schema '2'; expected '1'" in out + err


def test_export(store, tmp_path, capsys):
    out = tmp_path / "examples.jsonl"
    assert run("export", store, "--out", out, "--target", "suffix", "--kinds", "counterfactual") == 0
    assert lines(capsys) == ["3 trees, 3 counterfactual, 6 rows, 0 folded"]
    assert {json.loads(line)["kind"] for line in out.read_text().splitlines()} == {"counterfactual"}
    assert run("export", store, "--out", tmp_path / "examples.parquet", "--format", "verl") == 0
    assert "3 rows hold earlier turns as ChatML text" in lines(capsys)[-1]
    assert run("export", store, "--out", tmp_path / "more.jsonl", "--rehearsal-share", "2") == 1
    assert "rehearsal_share is 2.0; expected a number from 0 to 1" in capsys.readouterr().err


def test_a_run_dir_stands_for_its_store(tmp_path, capsys):
    write(tmp_path / "run" / "checkpoints" / "trees", (rescued("601"), provenance(1)))
    assert run("list", tmp_path / "run") == 0
    assert lines(capsys)[-1] == "1 trees, 1 solved"
    assert run("merge", tmp_path / "run", "--out", tmp_path / "merged") == 0


def test_a_copy_goes_into_no_folder_of_other_things(store, tmp_path, capsys):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").touch()
    assert run("filter", store, "--out", tmp_path / "notes") == 1
    assert f"{tmp_path / 'notes'} already holds todo.txt; expected a new folder" in capsys.readouterr().err
