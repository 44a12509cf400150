"""From whatever MODEL names to a Hugging Face folder."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from leafe_verl import checkpoints
from leafe_verl.checkpoints import TRACKER, hf_folder, repair_tracker
from leafe_verl.cli import main


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    step = tmp_path / "run" / "checkpoints" / "global_step_2"
    touch(step / "actor", "fsdp_config.json", "model_world_size_1_rank_0.pt")
    touch(step / "actor" / "huggingface", "config.json", "tokenizer.json")
    return step


@pytest.fixture
def merger(monkeypatch):
    """verl's merger, as far as files go; `files` is what it leaves."""

    def run(command, **kwargs):
        run.calls.append(command)
        touch(Path(command[command.index("--target_dir") + 1]), *run.files)
        return subprocess.CompletedProcess(command, run.status)

    run.calls, run.files, run.status = [], ["config.json", "model.safetensors"], 0
    monkeypatch.setattr(checkpoints.subprocess, "run", run)
    return run


@pytest.mark.parametrize("part", ["", "actor", "actor/huggingface"])
def test_a_checkpoint_is_merged_once_and_kept_beside(checkpoint, merger, part):
    merged = str(checkpoint / "merged")
    assert [hf_folder(str(checkpoint / part)) for _ in range(2)] == [merged, merged]
    (command,) = merger.calls
    assert command[command.index("--local_dir") + 1] == str(checkpoint / "actor")
    assert sorted(path.name for path in checkpoint.iterdir()) == ["actor", "merged"]


def test_a_failed_merge_leaves_nothing(checkpoint, merger):
    merger.status = 1
    with pytest.raises(ValueError, match="could not merge .*actor .exit status 1"):
        hf_folder(str(checkpoint))
    assert [path.name for path in checkpoint.iterdir()] == ["actor"]


def test_a_merge_without_weights_is_not_taken_for_whole(checkpoint, merger):
    merger.files = ["config.json"]
    with pytest.raises(ValueError, match="could not merge"):
        hf_folder(str(checkpoint))


def test_hub_names_and_hugging_face_folders_stay_as_they_are(tmp_path, merger, capsys):
    folder = str(touch(tmp_path / "hf", "config.json", "model.safetensors"))
    assert hf_folder("Qwen/Qwen2.5-7B-Instruct") == "Qwen/Qwen2.5-7B-Instruct"
    assert main(["merge", folder]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    assert not merger.calls


def test_a_run_directory_lists_its_checkpoints(checkpoint, capsys):
    assert main(["merge", str(checkpoint.parents[1])]) == 1
    said = capsys.readouterr()
    assert said.out == "" and f"there are {checkpoint}" in said.err


@pytest.mark.end_to_end
def test_verls_merger_gives_back_model_tokenizer_and_chat_template(tmp_path):
    pytest.importorskip("verl", reason="verl is not installed")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from end_to_end.tiny_model import make_tiny_model

    model = AutoModelForCausalLM.from_pretrained(make_tiny_model(tmp_path / "model"))
    actor = tmp_path / "global_step_1" / "actor"
    shutil.copytree(tmp_path / "model", actor / "huggingface")
    (actor / "huggingface" / "model.safetensors").unlink()
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 1}))
    torch.save(model.state_dict(), actor / "model_world_size_1_rank_0.pt")

    merged = hf_folder(str(actor.parent))
    weights = AutoModelForCausalLM.from_pretrained(merged).state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert "<|im_start|>" in AutoTokenizer.from_pretrained(merged).chat_template


class TestTracker:
    @pytest.mark.parametrize(("text", "step"), [("4", 4), ("12\n", 12)])
    def test_a_whole_one_is_left_alone(self, tmp_path, text, step):
        (tmp_path / TRACKER).write_text(text)
        assert repair_tracker(tmp_path) == step
        assert (tmp_path / TRACKER).read_text() == text

    def test_none_is_none(self, tmp_path):
        assert repair_tracker(tmp_path) is None

    def test_an_empty_one_names_the_latest_whole_checkpoint(self, tmp_path):
        for step in (2, 10):
            touch(tmp_path / f"global_step_{step}", "data.pt")
        touch(tmp_path / "global_step_12" / "actor", "model_world_size_1_rank_0.pt")
        (tmp_path / TRACKER).write_text("")
        assert repair_tracker(tmp_path) == 10
        assert (tmp_path / TRACKER).read_text() == "10"

    def test_an_empty_one_without_a_checkpoint_goes(self, tmp_path):
        (tmp_path / TRACKER).write_text("")
        assert repair_tracker(tmp_path) is None
        assert not (tmp_path / TRACKER).exists()
