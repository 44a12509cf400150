"""Reading the playbook's file if it is absent, present, or holds something else."""

import pytest

from leafe_verl.core.playbook import Delta, Playbook
from leafe_verl.plugin.rollout.playbook_file import read_playbook, write_playbook


def test_no_file_is_an_empty_playbook(tmp_path):
    assert read_playbook(None) == read_playbook(str(tmp_path / "none.json")) == Playbook()


def test_what_was_written_is_read(tmp_path):
    playbook = Playbook().merged([Delta(lessons=("check types",))], 2000)
    write_playbook(str(tmp_path / "deep" / "playbook.json"), playbook)
    assert read_playbook(str(tmp_path / "deep" / "playbook.json")) == playbook
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["playbook.json"]


def test_another_file_is_named(tmp_path):
    path = tmp_path / "playbook.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match="leafe.playbook.path .*playbook.json: not a playbook"):
        read_playbook(str(path))
