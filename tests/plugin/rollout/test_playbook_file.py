"""Reading the playbook's file if it is absent, present, or holds something else."""

import pytest
from omegaconf import OmegaConf

from leafe_verl.checkpoints import TRACKER
from leafe_verl.core.playbook import Delta, Playbook
from leafe_verl.plugin.rollout.playbook_file import forget_advice, read_playbook, write_playbook


def test_no_path_is_an_empty_playbook_and_no_file_is_one_for_ace_alone(tmp_path):
    missing = str(tmp_path / "none.json")
    assert read_playbook(None) == read_playbook(missing, begins_empty=True) == Playbook()
    with pytest.raises(ValueError, match="no playbook at .*none.json; leafe.playbook.path names the file"):
        read_playbook(missing)


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


def test_a_run_that_begins_anew_forgets_its_own_playbook_and_no_other(tmp_path):
    own, other = tmp_path / "playbook.json", tmp_path / "mine.json"

    def begun(path, resume_mode="auto"):
        write_playbook(str(path), Playbook())
        trainer = {"default_local_dir": str(tmp_path), "resume_mode": resume_mode}
        forget_advice(OmegaConf.create({"trainer": trainer, "leafe": {"playbook": {"path": str(path)}}}))
        return path.exists()

    assert (begun(own), begun(other)) == (False, True)
    (tmp_path / "global_step_2" / "actor").mkdir(parents=True)
    (tmp_path / TRACKER).write_text("2")
    assert (begun(own), begun(own, "disable")) == (True, False)
