"""A LoRA checkpoint is evaluated as it was trained, or refused; never as its base model."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("verl", reason="verl is not installed")
pytest.importorskip("peft", reason="peft is not installed")

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from end_to_end.tiny_model import make_tiny_model
from leafe_verl import checkpoints
from leafe_verl.checkpoints import hf_folder
from leafe_verl.lora import ADAPTER, merge_adapter

TOKENS = torch.tensor([[5, 9, 70, 71, 2]])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The tiny model, and the same with an adapter that changes it."""
    folder = make_tiny_model(tmp_path_factory.mktemp("model"))
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        plain = base(TOKENS).logits
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"])
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
        return folder, model, plain, model(TOKENS).logits


def checkpoint(folder, trained, *, meta=True, only_lora=False):
    """What verl's FSDPCheckpointManager writes of a LoRA model on one rank."""
    model_folder, model, *_ = trained
    actor = folder / "global_step_1" / "actor"
    shutil.copytree(model_folder, actor / "huggingface")
    (actor / "huggingface" / "model.safetensors").unlink()
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 1}))
    state = {name: value for name, value in model.state_dict().items() if not only_lora or "lora_" in name}
    torch.save(state, actor / "model_world_size_1_rank_0.pt")
    if meta:
        (actor / "lora_train_meta.json").write_text('{"r": 4, "lora_alpha": 16, "task_type": "CAUSAL_LM"}')
    return actor.parent


def logits(folder):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(TOKENS).logits


def assert_trained(folder, trained):
    *_, plain, wanted = trained
    found = logits(folder)
    assert (plain - wanted).abs().max() > 0.5
    assert (found - wanted).abs().max() < 0.05  # the merger stores bfloat16


def plain_merge(folder, trained):
    """A folder as verl's merger leaves it: base weights, and the adapter beside them."""
    model_folder, model, *_ = trained
    shutil.copytree(model_folder, folder)
    model.save_pretrained(folder / ADAPTER)
    return folder


@pytest.fixture
def merger(monkeypatch, trained):
    """verl's merger without its start of ten seconds."""

    def run(command, **kwargs):
        target = Path(command[command.index("--target_dir") + 1])
        plain_merge(target, trained)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(checkpoints.subprocess, "run", run)


@pytest.mark.parametrize("part", ["", "actor", "actor/huggingface"])
def test_a_checkpoint_gives_the_logits_that_were_trained(tmp_path, trained, merger, part):
    step = checkpoint(tmp_path, trained)
    (step / "actor" / "huggingface" / "model.safetensors").write_text("with `hf_model` verl writes weights there too")
    assert_trained(hf_folder(str(step / part)), trained)
    assert not (step / "merged" / ADAPTER).exists()


@pytest.mark.end_to_end
def test_verls_merger_and_ours_give_the_logits_that_were_trained(tmp_path, trained):
    step = checkpoint(tmp_path, trained)
    assert_trained(hf_folder(str(step)), trained)
    assert not (step / "merged" / ADAPTER).exists()


def test_a_folder_of_verls_merger_is_merged_into_a_new_one(tmp_path, trained):
    folder = plain_merge(tmp_path / "merged", trained)
    found = hf_folder(str(folder))
    assert found == str(tmp_path / "merged-with-lora_adapter")
    assert_trained(found, trained)
    assert hf_folder(str(folder)) == found
    assert (folder / ADAPTER).is_dir()


def test_a_merge_of_an_earlier_version_is_done_again(tmp_path, trained, merger):
    step = checkpoint(tmp_path, trained)
    plain_merge(step / "merged", trained)
    assert_trained(hf_folder(str(step)), trained)


@pytest.mark.end_to_end
def test_without_the_metadata_the_checkpoint_is_refused(tmp_path, trained):
    step = checkpoint(tmp_path, trained, meta=False)
    with pytest.raises(ValueError, match="lora_alpha=0.*lora_train_meta.json"):
        hf_folder(str(step))
    assert not (step / "merged").exists()


@pytest.mark.end_to_end
def test_a_checkpoint_of_the_adapter_alone_is_refused(tmp_path, trained):
    step = checkpoint(tmp_path, trained, only_lora=True)
    with pytest.raises(ValueError, match="could not merge|save_lora_only"):
        hf_folder(str(step))
    assert not (step / "merged").exists()


def test_an_adapter_alone_is_no_model(tmp_path, trained):
    trained[1].save_pretrained(tmp_path / "adapter")
    shutil.copy(trained[0] / "config.json", tmp_path / "adapter")
    with pytest.raises(ValueError, match="LoRA adapter, not a model.*merge_and_unload"):
        hf_folder(str(tmp_path / "adapter"))


@pytest.mark.parametrize("change", [{"use_dora": True}, {"rank_pattern": {"q_proj": 8}}, {"peft_type": "IA3"}])
def test_what_is_not_plain_lora_is_refused_before_anything_changes(tmp_path, trained, change):
    folder = plain_merge(tmp_path / "merged", trained)
    config = folder / ADAPTER / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ValueError, match="only plain LoRA"):
        merge_adapter(folder)
    assert (logits(folder) - trained[2]).abs().max() < 0.05


def test_an_alpha_of_0_which_verl_writes_without_its_metadata_is_refused(tmp_path, trained):
    folder = plain_merge(tmp_path / "merged", trained)
    config = folder / ADAPTER / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 0}))
    with pytest.raises(ValueError, match="lora_alpha=0.*lora_train_meta.json"):
        merge_adapter(folder)


def test_an_adapter_without_its_base_weights_is_refused(tmp_path, trained):
    folder = plain_merge(tmp_path / "merged", trained)
    save_file({"lm_head.weight": torch.zeros(2, 2)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks model.layers.*save_lora_only"):
        merge_adapter(folder)
