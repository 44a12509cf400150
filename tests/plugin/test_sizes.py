"""The configurations for the paper's models: they compose, pass our checks and verl's, and by the estimate they fit."""

import json

import pytest

pytest.importorskip("verl", reason="verl is not installed")

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from verl.utils.config import validate_config

from leafe_verl.embedded import HELDOUT_FILE, TRAIN_FILE
from leafe_verl.model_config import ModelShape
from leafe_verl.plugin.preflight.gpu_memory import ASSUMED_GPU, GIB, GpuSizes, estimate_gpu
from leafe_verl.plugin.preflight.memory import describe_memory
from leafe_verl.plugin.preflight.problems import find_problems
from leafe_verl.plugin.settings import RunSettings
from qwen import hub_name, qwen_config

NODES = {"7b": 1, "14b": 2, "32b": 2, "72b": 4, "32b_lora": 1, "72b_lora": 2}
"""Size -> its nodes of 8 GPUs."""
OTHER_METHODS = ("grpo", "ace", "early_experience", "evaluate")


@pytest.fixture
def composed(tmp_path, monkeypatch):
    monkeypatch.delenv("MODEL", raising=False)

    def build(method, size, *overrides):
        model = size.partition("_")[0]
        (tmp_path / "config.json").write_text(json.dumps(qwen_config(model)))
        given = [
            *("device=gpu", f"size={size}", "leafe.evaluation.store=there", "trainer.n_gpus_per_node=8"),
            *(f"data.train_files=[{TRAIN_FILE}]", f"data.val_files=[{HELDOUT_FILE}]"),
        ]
        with initialize_config_module("leafe_verl.plugin.config", version_base=None):
            found = compose(method, overrides=[*given, *overrides])
        assert found.actor_rollout_ref.model.path == hub_name(model)
        found.actor_rollout_ref.model.path = str(tmp_path)
        return found

    return build


@pytest.fixture(autouse=True)
def no_tokenizer_and_a_large_disk(monkeypatch):
    for name in ("chat_problems", "_thought_problems", "room_problems"):
        monkeypatch.setattr(f"leafe_verl.plugin.preflight.problems.{name}", lambda *_: [])


@pytest.mark.parametrize(
    "method, size", [*(("leafe", size) for size in NODES), *((method, "72b") for method in OTHER_METHODS)]
)
def test_every_size_passes_our_checks_and_verls(composed, method, size):
    overrides = ["leafe.playbook.path=playbook.json"] if method == "ace" else []
    config = composed(method, size, *overrides)
    assert find_problems(config) == []
    validate_config(config, use_reference_policy=False, use_critic=False)
    assert config.trainer.nnodes == NODES[size]
    assert 8 % config.actor_rollout_ref.rollout.tensor_model_parallel_size == 0
    assert config.actor_rollout_ref.model.lora_rank == (32 if "lora" in size else 0)


@pytest.mark.parametrize("size", NODES)
@pytest.mark.parametrize("method", ["leafe", "grpo"])
def test_by_the_estimate_every_size_fits_gpus_of_80_gb(composed, monkeypatch, method, size):
    from leafe_verl.plugin import resolvers

    monkeypatch.setattr(resolvers, "has_flash_attention", lambda: True)  # GRPO's micro-batches are the largest then
    config = composed(method, size, "environment=codecontests")
    settings = RunSettings.from_mapping(OmegaConf.to_container(config.leafe, resolve=True))
    sizes = GpuSizes.read(config, settings)
    need = estimate_gpu(ModelShape.read(config.actor_rollout_ref.model.path), sizes)
    assert need.trainer.total < 0.9 * ASSUMED_GPU
    assert sizes.share * ASSUMED_GPU + need.kept < 0.9 * ASSUMED_GPU
    cache = sizes.share * ASSUMED_GPU - need.engine_weights
    assert cache / need.cached_token > 32 * sizes.window, "windows that a replica plays at once"
    assert sizes.tokens >= sizes.window
    assert "does not fit" not in describe_memory(config)


def test_the_estimate_of_72b_by_hand(composed):
    config = composed("leafe", "72b", "environment=codecontests")
    settings = RunSettings.from_mapping(OmegaConf.to_container(config.leafe, resolve=True))
    need = estimate_gpu(ModelShape.read(config.actor_rollout_ref.model.path), GpuSizes.read(config, settings))
    assert need.trainer.weights == pytest.approx(72.7e9 * 4 / 32, rel=0.001)
    assert need.trainer.gathered == 152064 * 8192 * 10, "a matrix of tokens has more numbers than a layer"
    assert need.trainer.activations == 8192 * 2 * (14 * 8192 + 4 * 29568 + 80 * 8192)
    assert need.trainer.logits == pytest.approx(4 * 2 * 152064 * 8192 * 1024 / 1104)
    assert need.engine_weights == pytest.approx(72.7e9 * 2 / 8, rel=0.001)
    assert need.cached_token == 2 * 2 * 80 * 128, "one of eight heads on each GPU"
    assert (need.offloaded / GIB, need.loading / GIB) == pytest.approx((203.1, 270.8), abs=0.1)


def test_a_window_that_no_micro_batch_holds_is_refused_before_anything_is_explored(composed):
    (problem,) = find_problems(composed("leafe", "72b", "data.max_response_length=8192"))
    assert "10240 tokens" in problem and "at most 8192" in problem and "ppo_max_token_len_per_gpu" in problem
    raised = "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=10240"
    assert find_problems(composed("leafe", "72b", "data.max_response_length=8192", raised)) == []
    assert find_problems(composed("evaluate", "72b", "data.max_response_length=8192")) == []


def test_a_size_is_named_or_absent(monkeypatch):
    monkeypatch.delenv("MODEL", raising=False)
    with initialize_config_module("leafe_verl.plugin.config", version_base=None):
        plain, named = (compose("leafe", overrides=["device=gpu", *given]) for given in ([], ["size=7b"]))
    assert plain.actor_rollout_ref == named.actor_rollout_ref, "7b is what device=gpu is made for"
    monkeypatch.setenv("MODEL", "meta-llama/Llama-3.1-8B-Instruct")
    with initialize_config_module("leafe_verl.plugin.config", version_base=None):
        other = compose("leafe", overrides=["device=gpu", "size=7b"])
    assert other.actor_rollout_ref.model.path == "meta-llama/Llama-3.1-8B-Instruct"
