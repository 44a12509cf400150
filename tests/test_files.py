"""Files that others read meanwhile, and that outlive a kill."""

import os

import pytest

from leafe_verl.files import append_line, replace_text


@pytest.mark.parametrize("before", ["", "one\n", "one\nha"])
def test_a_line_is_not_joined_to_half_a_line_of_a_killed_process(tmp_path, before):
    path = tmp_path / "lines"
    path.write_text(before)
    append_line(path, "two")
    append_line(path, "three")
    assert path.read_text().splitlines()[-2:] == ["two", "three"]
    assert path.read_text().startswith(before)


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "text"
    for text in ("old", "new"):
        replace_text(path, text)
    assert path.read_text() == "new" and [*tmp_path.iterdir()] == [path]


def test_what_cannot_be_written_leaves_the_old_text_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "text"
    replace_text(path, "old")
    with monkeypatch.context() as patched, pytest.raises(OSError, match="full"):
        patched.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("full")))
        replace_text(path, "new")
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]
