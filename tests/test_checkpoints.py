"""From whatever MODEL names to a Hugging Face folder."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from leafe_verl import checkpoints
from leafe_verl.checkpoints import TRACKER, hf_folder, repair_tracker, resumed_step, saved_steps
from leafe_verl.cli import main
from leafe_verl.console.ending import RunChoices, next_commands
from leafe_verl.experiments.budget import trained_steps
from leafe_verl.plugin.training.checkpointing import CheckpointFolder
from leafe_verl.report.progress import RunFollower


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
    """verl's merger, as far as files go; `files` is what it leaves, at `time`."""

    def run(command, **kwargs):
        run.calls.append(command)
        target = touch(Path(command[command.index("--target_dir") + 1]), *run.files)
        for path in target.iterdir() if run.time else ():
            os.utime(path, (run.time, run.time))
        return subprocess.CompletedProcess(command, run.status, stdout="many words\nno such file: x")

    run.calls, run.files, run.status, run.time = [], ["config.json", "model.safetensors"], 0, None
    monkeypatch.setattr(checkpoints.subprocess, "run", run)
    return run


@pytest.mark.parametrize("part", ["", "actor", "actor/huggingface"])
def test_a_checkpoint_is_merged_once_and_kept_beside(checkpoint, merger, part):
    merged = str(checkpoint / "merged")
    assert [hf_folder(str(checkpoint / part)) for _ in range(2)] == [merged, merged]
    (command,) = merger.calls
    assert command[command.index("--local_dir") + 1] == str(checkpoint / "actor")
    assert sorted(path.name for path in checkpoint.iterdir()) == ["actor", "merged"]


@pytest.mark.parametrize(
    ("dtype", "module"),
    [
        ("float32", "leafe_verl.exact_merger"),
        ("bfloat16", "verl.model_merger"),
        ("bfloat16 (rollout), float32 (trainer)", "verl.model_merger"),
        (None, "verl.model_merger"),
    ],
)
def test_the_weights_of_a_run_in_float32_are_not_rounded(checkpoint, merger, dtype, module):
    if dtype:
        (checkpoint.parent.parent / "precision.json").write_text(json.dumps({"dtype": dtype}))
    hf_folder(str(checkpoint))
    (command,) = merger.calls
    assert command[1:4] == ["-m", module, "merge"]


def test_a_checkpoint_that_was_saved_again_is_merged_again(checkpoint, merger):
    merged = Path(hf_folder(str(checkpoint)))
    (merged / "of the former run").touch()
    shard = checkpoint / "actor" / "model_world_size_1_rank_0.pt"
    later = max(path.stat().st_mtime for path in merged.iterdir()) + 1
    os.utime(shard, (later, later))
    merger.time = later + 1
    assert [hf_folder(str(checkpoint)) for _ in range(2)] == [str(merged)] * 2
    assert len(merger.calls) == 2 and not (merged / "of the former run").exists()
    assert sorted(path.name for path in checkpoint.iterdir()) == ["actor", "merged"]
    shard.unlink()
    assert hf_folder(str(checkpoint)) == str(merged), "shards that are gone are not missed"
    assert len(merger.calls) == 2


def test_a_failed_merge_leaves_nothing(checkpoint, merger):
    merger.status = 1
    with pytest.raises(
        ValueError, match=r"could not merge .*actor .exit status 1.\. It said:\nmany words\nno such file: x"
    ):
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
        touch(tmp_path / f"global_step_{step}", "data.pt")
        touch(tmp_path / "global_step_20", "data.pt")
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

    @pytest.mark.parametrize(
        "content", [b"", b"\n", b"\x00\x00", b"\xff\xfe", b"12x", b"-1", b"1" * 5000, b"7", "\u0663".encode()]
    )
    def test_a_torn_one_or_one_of_a_checkpoint_that_is_gone_names_the_latest_whole_one(self, tmp_path, content):
        for step in (2, 10):
            touch(tmp_path / f"global_step_{step}", "data.pt")
        (tmp_path / TRACKER).write_bytes(content)
        assert resumed_step(tmp_path) == 10
        assert repair_tracker(tmp_path) == 10
        assert (tmp_path / TRACKER).read_text() == "10"

    def test_one_of_a_checkpoint_that_is_gone_stays_where_no_other_is_whole(self, tmp_path):
        (tmp_path / TRACKER).write_text("7")
        assert repair_tracker(tmp_path) is None, "verl begins anew"
        assert (tmp_path / TRACKER).read_text() == "7"


OTHERS = [
    "global_step_10_backup",
    "global_step_",
    "global_step_x",
    "global_step_007",
    "global_step_-1",
    "old_global_step_9",
]
"""What people keep beside checkpoints."""


@pytest.mark.parametrize("name", OTHERS)
def test_what_lies_beside_checkpoints_is_none(tmp_path, name):
    touch(tmp_path / "global_step_2", "data.pt")
    touch(tmp_path / name, "data.pt")
    touch(tmp_path, "global_step_11")
    assert saved_steps(tmp_path) == {2: tmp_path / "global_step_2"}
    (tmp_path / TRACKER).write_text("")
    assert repair_tracker(tmp_path) == 2
    folder = CheckpointFolder(tmp_path)
    touch(tmp_path / "global_step_1", "data.pt")
    folder.prune(1, None)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted(["global_step_2", name])


def test_what_to_do_next_names_a_checkpoint_and_no_copy_of_one(tmp_path):
    touch(tmp_path / "checkpoints" / "global_step_2", "data.pt")
    touch(tmp_path / "checkpoints" / "global_step_10_backup", "data.pt")
    choices = RunChoices("leafe", "mbpp", steps=2, epochs=30, stop_at="fence")
    told = "\n".join(next_commands(tmp_path, choices))
    assert "--model" in told and "global_step_2 " in told and "backup" not in told


def test_readers_of_a_torn_tracker_know_of_no_step(tmp_path):
    touch(tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / TRACKER).write_bytes(b"\xff\x00")
    assert trained_steps(tmp_path) == 0 and RunFollower(tmp_path).look().done == 0
    assert CheckpointFolder(tmp_path / "checkpoints").latest() is None
