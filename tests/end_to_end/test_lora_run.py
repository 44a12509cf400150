"""A run that trains a LoRA adapter: stopped, resumed, merged and evaluated. What is evaluated is what was trained."""

import json

import pytest

pytest.importorskip("vllm", reason="vllm is not installed; recipes/setup.sh installs it")
pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")
pytest.importorskip("peft", reason="peft is not installed; pip install peft")

import torch
from transformers import AutoModelForCausalLM

from end_to_end.launch import launch
from end_to_end.probe import PROBED
from end_to_end.test_evaluate import evaluate
from end_to_end.tiny_model import make_tiny_model
from leafe_verl.checkpoints import hf_folder
from leafe_verl.evaluation.results import read_evaluation
from leafe_verl.lora import ADAPTER
from leafe_verl.trees import read_trees

pytestmark = [pytest.mark.end_to_end, pytest.mark.costly]

LORA = [
    "trainer.v1.trainer_mode=leafe_probe",
    "actor_rollout_ref.model.lora_rank=8",
    "actor_rollout_ref.model.lora_alpha=32",
    "actor_rollout_ref.actor.optim.lr=1e-2",
    "trainer.save_freq=1",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def lora_run(model, tmp_path_factory):
    """One step, then a second one resumed from its checkpoint."""
    run_dir = tmp_path_factory.mktemp("lora")
    first = launch("leafe", model, run_dir, *LORA, "trainer.total_training_steps=1")
    resumed = launch("leafe", model, run_dir, *LORA, "trainer.total_training_steps=2")
    return run_dir, first, resumed


def log_probs(folder, token_ids):
    """log p(token i + 1 | tokens up to i) of the model in a folder."""
    tokens = torch.tensor([token_ids])
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits
    return logits.log_softmax(-1)[0, :-1].gather(1, tokens[0, 1:, None])[:, 0]


def test_the_rollout_samples_from_the_adapter_after_every_update(lora_run):
    _, first, resumed = lora_run
    assert (sorted(first), sorted(resumed)) == ([1], [2])
    for metrics in (first[1], resumed[2]):
        assert metrics["actor/grad_norm"] > 0
        assert metrics["probe/change"] > 0.01
        assert metrics["probe/pearson"] > 0.99


def test_what_is_evaluated_is_what_was_trained(lora_run, model, tmp_path):
    run_dir, *_ = lora_run
    probed = json.loads((run_dir / PROBED.format(step=2)).read_text())
    trained, base = torch.tensor(probed["log_probs"]), log_probs(model, probed["token_ids"])
    merged = hf_folder(str(run_dir / "checkpoints" / "global_step_2"))
    evaluated = log_probs(merged, probed["token_ids"])
    change = (trained - base).abs().mean()
    assert change > 0.05, "training has changed the model"
    assert (evaluated - trained).abs().mean() < 0.1 * change, "the trainer computes in bfloat16, as the merger stores"
    (tmp_path / "tasks.jsonl").write_text((run_dir / "held_out.jsonl").read_text())
    evaluate(run_dir / "checkpoints" / "global_step_2", ("--tasks", tmp_path / "tasks.jsonl"), tmp_path / "out", 1)
    assert len(read_evaluation(tmp_path / "out")) == 3
    assert {provenance.model for _, provenance in read_trees(tmp_path / "out")} == {merged}
    assert not (run_dir / "checkpoints" / "global_step_2" / "merged" / ADAPTER).exists()
