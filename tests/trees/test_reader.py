"""Reading what other versions and killed processes left behind, and what other tools make of a store."""

import os

import pyarrow as pa
import pytest

from fakes import ScriptedPolicy, World, grow
from leafe_verl.trees import TreeKey, TreeWriter, index, read_summaries, read_tree, read_trees
from leafe_verl.trees.copying import copy_trees
from leafe_verl.trees.errors import DamagedFile
from leafe_verl.trees.reader import read_file
from leafe_verl.trees.restarts import record_restart
from leafe_verl.trees.rows import to_row
from leafe_verl.trees.schema import SCHEMA, VERSION_KEY
from trees.stores import provenance, rescued, wandered, write


def steps(store):
    return [where_from.step for _, where_from in read_trees(store)]


def write_rows(path, rows, schema):
    with pa.ipc.new_stream(str(path), schema) as stream:
        stream.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))


def test_provenance_comes_back(tmp_path):
    write(tmp_path, (rescued(), provenance(step=3)))
    ((_, where_from),) = read_trees(tmp_path)
    assert where_from == provenance(step=3)


def test_every_writer_has_a_file_of_its_own_made_by_its_first_tree(tmp_path):
    store = tmp_path / "new" / "store"
    one, other, silent = TreeWriter(store), TreeWriter(store), TreeWriter(store)
    assert not store.exists()
    for step in range(2):
        one.append(rescued(), provenance(step))
        other.append(rescued(), provenance(step + 2))
    silent.close()
    assert len(list(store.glob("trees-*.arrow"))) == 2
    assert sorted(steps(store)) == [0, 1, 2, 3]  # before any of them is closed


def test_nothing_is_written_behind_a_tree_that_the_disk_may_not_have(tmp_path, monkeypatch):
    sync, failures = os.fsync, iter([False, False, True])  # the folder and the first tree, then the second

    def fsync(descriptor):
        if next(failures, False):
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    writer = TreeWriter(tmp_path)
    writer.append(rescued(), provenance(0))
    (first,) = tmp_path.glob("*.arrow")
    whole = first.stat().st_size
    with pytest.raises(OSError, match="No space left"):
        writer.append(rescued(), provenance(1))
    with first.open("r+b") as file:  # what a server of NFS may have of it
        file.seek(whole)
        file.write(b"\0" * (first.stat().st_size - whole))
    writer.append(rescued(), provenance(2))
    assert sorted(steps(tmp_path)) == [0, 2]


def test_a_fresh_store_has_no_trees(tmp_path):
    assert steps(tmp_path / "nowhere") == [] and index(tmp_path / "nowhere") == {}


def test_a_tree_cut_anywhere_loses_itself_alone(tmp_path, caplog):
    path = write(tmp_path, *((rescued(), provenance(step)) for step in range(3)))
    content = path.read_bytes()
    begins = [place.offset for place, _ in read_file(path)]
    for cut in [*range(begins[2] + 1, len(content) - 8, 900), len(content) - 9]:
        path.write_bytes(content[:cut])
        caplog.clear()
        assert steps(tmp_path) == [0, 1]
        assert f"{path}: unreadable from byte {begins[2]} on, behind 2 whole records" in caplog.text
    path.write_bytes(content[: begins[2]])  # between two trees: nothing is missing
    caplog.clear()
    assert steps(tmp_path) == [0, 1] and not caplog.text


@pytest.mark.parametrize("length", [0, 5, 300])
def test_a_file_without_a_whole_schema_has_no_trees(tmp_path, caplog, length):
    path = write(tmp_path, (rescued(), provenance()))
    path.write_bytes(path.read_bytes()[:length])
    assert steps(tmp_path) == []
    assert "behind 0 whole records" in caplog.text


def test_the_rest_of_a_file_behind_a_changed_byte_is_passed_over(tmp_path, caplog):
    path = write(tmp_path, *((wandered(0), provenance(step)) for step in range(3)))
    write(tmp_path, (rescued(), provenance(step=7)))
    begins = [place.offset for place, _ in read_file(path)]
    content = bytearray(path.read_bytes())
    header = begins[1] + 8  # which says where each column is: what is not compressed shows no other damage
    content[header : header + 64] = bytes(byte ^ 0xFF for byte in content[header : header + 64])
    path.write_bytes(content)
    assert sorted(steps(tmp_path)) == [0, 7]
    assert f"{path}: unreadable from byte {begins[1]} on, behind 1 whole records" in caplog.text
    with pytest.raises(DamagedFile):
        list(read_file(path))


def test_a_tree_that_the_disk_does_not_take_leaves_whole_trees(tmp_path, monkeypatch):
    class FullDisk:
        """Takes half of a message, then fails."""

        def __init__(self, file):
            self.file = file

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            raise OSError("no space left on device")

        def __getattr__(self, name):
            return getattr(self.file, name)

    with TreeWriter(tmp_path) as writer:
        writer.append(rescued(), provenance(step=0))
        working = writer._file._file
        monkeypatch.setattr(writer._file, "_file", FullDisk(working))
        with pytest.raises(OSError, match="no space"):
            writer.append(rescued(), provenance(step=1))
        monkeypatch.setattr(writer._file, "_file", working)
        writer.append(rescued(), provenance(step=2))
    assert steps(tmp_path) == [0, 2]


def test_nothing_is_written_behind_what_could_not_be_taken_back(tmp_path, monkeypatch):
    class Stale:
        """Takes half of a message, then neither the rest nor a change of the length."""

        def __init__(self, file):
            self.file = file

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            raise OSError("stale file handle")

        def truncate(self, size):
            raise OSError("stale file handle")

        def __getattr__(self, name):
            return getattr(self.file, name)

    with TreeWriter(tmp_path) as writer:
        writer.append(rescued(), provenance(step=0))
        monkeypatch.setattr(writer._file, "_file", Stale(writer._file._file))
        with pytest.raises(OSError, match="stale"):
            writer.append(rescued(), provenance(step=1))
        writer.append(rescued(), provenance(step=2))
    assert sorted(steps(tmp_path)) == [0, 2] and len([*tmp_path.glob("*.arrow")]) == 2


def test_unknown_fields_are_passed_over_and_absent_ones_are_null(tmp_path):
    row = to_row(rescued(), provenance())
    known = [field for field in SCHEMA if field.name not in ("best_return", "tokenizer")]
    reflections = SCHEMA.field("reflections").type.value_type
    nested = pa.list_(pa.struct([*reflections, pa.field("mood", pa.string())]))
    fields = [f.with_type(nested) if f.name == "reflections" else f for f in known]
    schema = pa.schema([pa.field("weather", pa.string()), *fields], metadata=SCHEMA.metadata)
    row["reflections"] = [{**each, "mood": "good"} for each in row["reflections"]]
    write_rows(tmp_path / "trees-future.arrow", [{**row, "weather": "fine"}], schema)
    ((tree, where_from),) = read_trees(tmp_path)
    assert tree.reflections == rescued().reflections and where_from.tokenizer is None
    ((_, summary),) = read_summaries(tmp_path)
    assert summary["best_return"] is None and "weather" not in summary


@pytest.mark.parametrize(
    "metadata, said", [({VERSION_KEY: "2"}, "leafe_schema '2'; expected '1'"), ({}, "no leafe_schema in its metadata")]
)
def test_another_version_is_refused(tmp_path, metadata, said):
    write_rows(tmp_path / "trees-foreign.arrow", [to_row(rescued(), provenance())], SCHEMA.with_metadata(metadata))
    with pytest.raises(ValueError, match=rf"trees-foreign.arrow: {said}.*Read it with the version"):
        list(read_trees(tmp_path))


def test_a_missing_required_column_is_named(tmp_path):
    schema = SCHEMA.remove(SCHEMA.get_field_index("task_data"))
    write_rows(tmp_path / "trees-short.arrow", [to_row(rescued(), provenance())], schema)
    with pytest.raises(ValueError, match="no column task_data; leafe_schema 1 requires it"):
        index(tmp_path)


def test_a_row_that_is_no_tree_is_refused_with_its_place(tmp_path):
    row = to_row(rescued(), provenance())
    row["attempts"][1]["branch"]["step"] = 9
    write_rows(tmp_path / "trees-odd.arrow", [row], SCHEMA)
    with pytest.raises(ValueError, match=r"trees-odd.arrow, byte \d+: task 'corridor-3': no step 9 in attempt 0"):
        list(read_trees(tmp_path))


def test_the_index_finds_a_tree_without_reading_the_others(tmp_path):
    write(tmp_path, (rescued("a"), provenance(step=1)), (rescued("b"), provenance(step=2)))
    write(tmp_path, (rescued("a"), provenance(step=2)))
    found = index(tmp_path)
    assert set(found) == {TreeKey("first", 1, "a"), TreeKey("first", 2, "b"), TreeKey("first", 2, "a")}
    tree, where_from = read_tree(found[TreeKey("first", 2, "b")])
    assert (tree.task.key, where_from.step) == ("b", 2)


def test_of_two_trees_with_one_key_the_first_collected_counts(tmp_path):
    write(
        tmp_path, (rescued(experience="late"), provenance(hours=2)), (rescued(experience="early"), provenance(hours=1))
    )
    write(tmp_path, (rescued(), provenance(step=None, hours=1)), (rescued(), provenance(step=None, hours=2)))
    found = index(tmp_path)
    assert len(found) == 3  # outside training, one task may have many trees
    tree, _ = read_tree(found[TreeKey("first", 1, "corridor-3")])
    assert tree.reflections[0][1].experience == "early"


def test_batches_of_many_rows_are_read(tmp_path):
    rows = [to_row(rescued(key), provenance()) for key in "ab"]
    write_rows(tmp_path / "trees-table.arrow", rows, SCHEMA)
    assert [read_tree(place)[0].task.key for place in index(tmp_path).values()] == ["a", "b"]


def test_pandas_reads_it(tmp_path):
    pytest.importorskip("pandas", reason="pandas is not installed")
    path = write(tmp_path, (rescued("a"), provenance(1)), (rescued("b"), provenance(2)))
    table = pa.ipc.open_stream(str(path)).read_pandas()
    assert list(table["task_key"][table["solved"]]) == ["a", "b"]
    assert table["attempts"][0][1]["steps"][0]["action"]["text"] == "R"


def test_datasets_reads_it(tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    store = tmp_path / "store"
    write(store, (rescued("a"), provenance(1)))
    write(store, (rescued("b"), provenance(2)))
    loaded = datasets.load_dataset(
        "arrow", data_files=str(store / "trees-*.arrow"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert sorted(loaded["task_key"]) == ["a", "b"]
    assert loaded[0]["attempts"][1]["branch"]["parent"] == 0


def test_what_its_run_has_given_up_is_left_out_by_every_reader(tmp_path):
    write(tmp_path / "store", (rescued("old", "given up"), provenance(step=2)), (rescued("kept"), provenance(step=1)))
    record_restart(tmp_path / "store", "first", 1)
    again = provenance(step=2, hours=24 * 365 * 100)
    write(tmp_path / "store", (rescued("old", "collected again"), again))
    found = [read_tree(place)[0] for place in index(tmp_path / "store").values()]
    assert {tree.task.key: tree.reflections[0][1].experience for tree in found} == {
        "old": "collected again",
        "kept": "do not jump",
    }
    counts = copy_trees([tmp_path / "store"], tmp_path / "copy")
    assert (counts.read, counts.written, counts.duplicates) == (2, 2, 0)
    assert len([*read_trees(tmp_path / "copy")]) == 2


def test_a_tree_without_a_scored_attempt_counts_if_there_is_no_other(tmp_path):
    broken = grow(ScriptedPolicy(lambda messages: "R"), World(options={"no_such_option": True}))
    write(tmp_path, (broken, provenance(step=1)))
    assert len(index(tmp_path)) == 1
    whole = grow(ScriptedPolicy(lambda messages: "R"))
    write(tmp_path, (whole, provenance(step=1, hours=1)))
    (place,) = index(tmp_path).values()
    assert read_tree(place)[0].attempts[0].outcome.scored
