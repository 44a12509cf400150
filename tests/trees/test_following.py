"""A store read while it grows."""

import pyarrow as pa
import pytest

from leafe_verl.trees import StoreFollower, TreeWriter, read_tree
from leafe_verl.trees.reader import read_file
from leafe_verl.trees.schema import SCHEMA
from trees.stores import provenance, rescued, write


def keys(added):
    return [[read_tree(location)[0].task.key for location in locations] for locations in added]


def test_every_tree_is_named_once(tmp_path):
    follower = StoreFollower(tmp_path / "store")
    assert follower.added() == []
    with TreeWriter(tmp_path / "store") as one, TreeWriter(tmp_path / "store") as other:
        one.append(rescued("a"), provenance(1))
        assert keys(follower.added()) == [["a"]]
        assert follower.added() == []
        one.append(rescued("b"), provenance(1))
        one.append(rescued("c"), provenance(1))
        other.append(rescued("d"), provenance(1))
        assert sorted(keys(follower.added()), key=len) == [["d"], ["b", "c"]]
    assert follower.added() == []  # both files have their end marks


def test_a_tree_that_is_being_written_waits_until_it_is_whole(tmp_path):
    path = write(tmp_path, *((rescued(key), provenance()) for key in "ab"))
    content, second = path.read_bytes(), [place.offset for place, _ in read_file(path)][1]
    follower = StoreFollower(tmp_path)
    named = []
    for end in [0, 7, 300, second, second + 4, second + 99, len(content) - 99, len(content)]:
        path.write_bytes(content[:end])
        named.append(keys(follower.added()))
    assert named == [[], [], [], [["a"]], [], [], [], [["b"]]]


def test_another_version_is_refused(tmp_path):
    with pa.ipc.new_stream(str(tmp_path / "trees-a.arrow"), SCHEMA.with_metadata({"leafe_schema": "2"})):
        pass
    with pytest.raises(ValueError, match="leafe_schema '2'; expected '1'"):
        StoreFollower(tmp_path).added()
