"""Tasks from MBPP's own JSONL, from verl's parquet, and from a hub."""

import ast
import datetime
import itertools
import json
import sys
from types import SimpleNamespace

import pytest

from leafe_verl import environments
from leafe_verl.core.task import Task
from leafe_verl.embedded import DEV_FILE, HELDOUT_FILE, TRAIN_FILE
from leafe_verl.environments.rows import build_verl_row
from leafe_verl.environments.tasks import parse_rows
from leafe_verl.task_files import list_sources, read_tasks

ROW = {
    "task_id": 7,
    "text": "Write a function to add two numbers.",
    "code": "def add(a, b):\n    return a + b",
    "test_list": ["assert add(1, 2) == 3"],
    "test_setup_code": "",
    "challenge_test_list": ["assert add(2, 2) == 4"],
}


@pytest.mark.parametrize("path, number", [(TRAIN_FILE, 96), (DEV_FILE, 112), (HELDOUT_FILE, 64)])
def test_an_embedded_set_holds_different_functions(path, number):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == len({row["task_id"] for row in rows}) == len({row["text"] for row in rows}) == number
    assert len({function_name(row["code"]) for row in rows}) == number
    for row in rows:
        tests = [*row["test_list"], *row["challenge_test_list"]]
        assert len(row["test_list"]) == 3 and row["challenge_test_list"] and len(set(tests)) == len(tests)
        assert all(test.startswith(f"assert {function_name(row['code'])}(") for test in tests)
        assert len({test.rpartition(" == ")[2] for test in tests}) > 1, "no constant passes"


def test_the_embedded_sets_share_no_function():
    sets = [
        [json.loads(line) for line in path.read_text().splitlines()] for path in (TRAIN_FILE, DEV_FILE, HELDOUT_FILE)
    ]
    for what in (lambda row: row["text"], lambda row: function_name(row["code"]), lambda row: normalise(row["code"])):
        found = [{what(row) for row in rows} for rows in sets]
        assert [one & other for one, other in itertools.combinations(found, 2)] == [set()] * 3


def function_name(code):
    (function,) = ast.parse(code).body
    return function.name


def normalise(code):
    """Return a function's code without the names that its author chose."""
    tree, names = ast.parse(code), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.name = "f"
        elif isinstance(node, ast.arg):
            node.arg = names.setdefault(node.arg, f"x{len(names)}")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.setdefault(node.id, f"x{len(names)}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)
    return ast.dump(tree)


def test_text_that_parquet_holds_as_bytes_is_text(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow

    path = tmp_path / "bytes.parquet"
    row = {"task_id": 7, "text": "Add one: é.".encode(), "test_list": [b"assert add(1) == 2"], "image": b"\xff\xd8"}
    parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    (task,) = read_tasks(str(path), "mbpp")
    assert task.instruction == "Add one: é."
    assert task.data["test_list"] == ["assert add(1) == 2"]
    assert build_verl_row(task, "train", 0)["extra_info"]["text"] == "Add one: é."


def test_parquet_of_verl_gives_the_same_task_as_jsonl(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow

    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps(ROW) + "\n")
    (task,) = read_tasks(str(own), "mbpp")
    verls = tmp_path / "verls.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([build_verl_row(task, "train", 0)]), verls)
    assert read_tasks(str(verls), "mbpp") == [task]
    assert "def add" not in repr(task), "the reference solution stays out of the task"


def test_a_data_set_on_the_hub_is_named_in_four_parts(monkeypatch):
    asked = []

    def load_dataset(name, configuration, *, split):
        asked.append((name, configuration, split))
        return SimpleNamespace(column_names=list(ROW), remove_columns=lambda names: [ROW])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    (task,) = read_tasks("hub:google-research-datasets/mbpp/full/train", "mbpp")
    assert task.key == "7"
    assert asked == [("google-research-datasets/mbpp", "full", "train")]
    with pytest.raises(ValueError, match="OWNER/NAME/CONFIGURATION/SPLIT"):
        read_tasks("hub:mbpp", "mbpp")


@pytest.mark.parametrize("name, said", [("absent.jsonl", "does not exist"), ("rows.csv", "unknown ending")])
def test_files_that_cannot_be_read_are_named(tmp_path, name, said):
    (tmp_path / "rows.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match=said):
        read_tasks(str(tmp_path / name), "mbpp")


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no rows"):
        read_tasks(str(tmp_path / "empty.jsonl"), "mbpp")


def test_data_that_json_cannot_hold_are_named_with_their_field(monkeypatch):
    class Dated:
        @classmethod
        def task(cls, row, *, default_key=None):
            return Task(default_key, "When?", data={"asked": row["asked"]})

    monkeypatch.setitem(environments._registered, "dated", Dated)
    with pytest.raises(ValueError, match="row 0: asked holds what JSON cannot .*type date.* expected texts, numbers"):
        parse_rows([(0, {"asked": datetime.date(2026, 1, 2)})], "dated", "dated.parquet")
    (task,) = parse_rows([(0, {"asked": "now"})], "dated", "dated.parquet")
    assert task.environment == "dated", "the task names none"


@pytest.mark.parametrize(("given", "files"), [("a.jsonl", ["a.jsonl"]), (["a", "b"], ["a", "b"]), (None, [None])])
def test_one_file_is_a_list_of_one(given, files):
    assert list_sources(given) == files
