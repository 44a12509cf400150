"""Task files as people have them: arrays, byte order marks, other line ends, compressed and broken ones."""

import codecs
import gzip
import json
import sys
from types import SimpleNamespace

import pytest

from leafe_verl.experiments.splits import draw_splits
from leafe_verl.json_rows import read_json_rows
from leafe_verl.task_files import read_tasks

ROWS = [
    {"task_id": 7, "text": "Add two numbers.", "test_list": ["assert add(1, 2) == 3"]},
    {"task_id": 8, "text": "Halve a number.\u2028Twice: \U0001f600", "test_list": ["assert halve(4) == 2"]},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
ARRAY = json.dumps(ROWS, ensure_ascii=False, indent=2).encode()


def write(tmp_path, content, name="tasks.json"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(ARRAY, id="a JSON array, as in sanitized-mbpp.json"),
        pytest.param(json.dumps(ROWS).encode(), id="an array in one line"),
        pytest.param(codecs.BOM_UTF8 + ARRAY, id="an array with a byte order mark"),
        pytest.param(codecs.BOM_UTF8 + LINES, id="lines with a byte order mark"),
        pytest.param(LINES.replace(b"\n", b"\n" + codecs.BOM_UTF8, 1), id="a mark in the middle, as cat leaves"),
        pytest.param(LINES.replace(b"\n", b"\r\n"), id="line ends of Windows"),
        pytest.param(LINES.replace(b"\n", b"\r"), id="line ends of old Macs"),
        pytest.param(b"\n \n" + LINES.replace(b"\n", b"\n\n\t\n"), id="blank lines"),
        pytest.param(LINES.rstrip(b"\n"), id="no line end at the end"),
        pytest.param(LINES.decode().encode("utf-16"), id="UTF-16, as PowerShell writes"),
        pytest.param(ARRAY.decode().encode("utf-32"), id="UTF-32"),
        pytest.param("\n".join(json.dumps(row, indent=2) for row in ROWS).encode(), id="objects over several lines"),
        pytest.param(gzip.compress(LINES), id="gzip"),
    ],
)
def test_every_form_gives_the_same_tasks(tmp_path, content):
    tasks = read_tasks(str(write(tmp_path, content)), "mbpp")
    assert [(task.key, task.instruction, task.data["test_list"]) for task in tasks] == [
        (str(row["task_id"]), row["text"], row["test_list"]) for row in ROWS
    ]


@pytest.mark.parametrize("name", ["tasks.jsonl.gz", "tasks.json.gz", "TASKS.JSONL", "tasks.ndjson"])
def test_endings(tmp_path, name):
    content = gzip.compress(LINES) if name.endswith("gz") else LINES
    assert len(read_tasks(str(write(tmp_path, content, name)), "mbpp")) == 2


def test_a_row_without_a_key_gets_the_number_of_its_line_or_of_its_place_in_the_array(tmp_path):
    rows = [{key: row[key] for key in ("text", "test_list")} for row in ROWS]
    lines = "\n".join(["", *map(json.dumps, rows)]).encode()
    assert [task.key for task in read_tasks(str(write(tmp_path, lines)), "mbpp")] == ["2", "3"]
    assert [task.key for task in read_tasks(str(write(tmp_path, json.dumps(rows).encode())), "mbpp")] == ["1", "2"]


@pytest.mark.parametrize(
    "content, said",
    [
        (LINES + b"[1, 2]\n", r"line 3: a JSON list \(\[1, 2\]\); expected an object"),
        (LINES + b"42\n", "line 3: a JSON int"),
        (LINES + b'{"task_id": 9, "text": "Cut o', "line 3: not JSON .*expected one object per line"),
        (LINES + b'{"text": "caf\xe9"}\n', "line 3: byte 14 is not UTF-8; save the file as UTF-8"),
        (b"[1, " + ARRAY[1:], "row 1: a JSON int"),
        (ARRAY[: len(ARRAY) // 2], r"tasks.json, line \d+, column \d+: not JSON .*fix this place"),
        (ARRAY.replace(b"},", b"}", 1), r"tasks.json, line 9, column 3: not JSON \(Expecting ',' delimiter\)"),
        (json.dumps({"data": ROWS}).encode(), "'data' is a list of 2 objects.*jq -c '.data"),
        (
            json.dumps({"rows": ROWS}, indent=1).encode(),
            "'rows' is a list of 2 objects, and nothing else is in the file",
        ),
        (b'{"a": ' + b"9" * 5000 + b"}\n", "line 1: not JSON|row 1: not JSON"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (b"PK\x03\x04tasks", "tasks.json is a zip archive; unpack it"),
        (b"(\xb5/\xfdtasks", "tasks.json is compressed by zstd; unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of Git LFS.*git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html>", "a web page; download the file itself"),
        (gzip.compress(LINES)[:-20], r"tasks.json cannot be read \(.*\); expected a whole file"),
        (codecs.BOM_UTF16_LE + b"a\x00b", "byte order mark of utf-16"),
        (json.dumps({**ROWS[0], "text": "Half \ud83d of it"}).encode(), "task 7: half a surrogate pair"),
        (b"", "tasks.json holds no rows"),
        (b"[]", "tasks.json holds no rows"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_file_the_place_and_the_fix(tmp_path, content, said):
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=f"(?s){said}") as refusal:
        read_tasks(str(path), "mbpp")
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    "rows",
    [
        [{"task_id": 1, "tests": [{"input": "1"}]}],
        [{"tests": [{"input": "1"}]}, {"tests": [{"input": "2"}]}],
        [{"prompt": [{"role": "user", "content": "Go."}]}],
        [{"messages": [{"role": "user", "content": "Go."}]}],
    ],
)
def test_a_row_may_hold_a_list_of_objects(tmp_path, rows):
    for content in ("\n".join(map(json.dumps, rows)), json.dumps(rows), json.dumps(rows, indent=1)):
        read = read_json_rows(write(tmp_path, content.encode()))
        assert [row for _, row in read.numbered] == rows


def test_a_folder_and_a_broken_parquet_file_are_named(tmp_path):
    pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    with pytest.raises(ValueError, match="is a folder; expected a file in it"):
        read_tasks(str(tmp_path), "mbpp")
    with pytest.raises(ValueError, match=r"rows\.parquet is no whole parquet file"):
        read_tasks(str(write(tmp_path, b"PAR1 and no more", "rows.parquet")), "mbpp")


def test_a_data_set_that_the_hub_does_not_give_is_named(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(ValueError, match=r"hub:a/b/c/d cannot be loaded \(ConnectionError: no route\)"):
        read_tasks("hub:a/b/c/d", "mbpp")


def test_splits_are_drawn_from_an_array_and_name_the_row_that_is_none(tmp_path):
    files = draw_splits(write(tmp_path, codecs.BOM_UTF8 + ARRAY), {"train": 1, "test": 1}, 0, tmp_path / "splits")
    assert sorted(task.key for file in files.values() for task in read_tasks(str(file), "mbpp")) == ["7", "8"]
    with pytest.raises(ValueError, match=r"tasks\.json, line 3: a JSON list"):
        draw_splits(write(tmp_path, LINES + b"[]\n"), {"train": 1}, 0, tmp_path / "others")
