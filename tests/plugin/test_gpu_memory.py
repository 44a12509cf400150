"""The estimate of GPU memory: figures by hand for a model with round sizes, and what is said of them."""

import dataclasses

import pytest
from omegaconf import OmegaConf

pytest.importorskip("verl", reason="verl is not installed")

from leafe_verl.model_config import ModelShape
from leafe_verl.plugin.preflight import gpu_memory
from leafe_verl.plugin.preflight import memory as memory_check
from leafe_verl.plugin.preflight.cpu_memory import GIB, RunSizes, lora_parameters
from leafe_verl.plugin.preflight.gpu_memory import GpuSizes, TrainerNeed, describe_gpu, estimate_gpu

BILLION = 10**9
MODEL = ModelShape(
    layers=10,
    hidden=1000,
    intermediate=4000,
    heads=10,
    kv_heads=2,
    head_dim=100,
    vocab=100_000,
    tied=False,
    parameters=BILLION,
)
RUN = RunSizes(
    ranks=4,
    trains=True,
    serves=True,
    weight_bytes=4,
    compute_bytes=2,
    engine_bytes=2,
    lora_rank=0,
    reference=False,
    checkpointing=True,
    micro_batch=1,
    length=500,
    scored=120,
    cache=0,
    kept=0,
)
SIZES = GpuSizes(
    run=RUN,
    nodes=2,
    gpus=4,
    sharded=8,
    tokens=1000,
    offloads_weights=False,
    offloads_moments=False,
    trains_from_host=False,
    tensor_parallel=2,
    share=0.5,
    sleeps=True,
    window=500,
)


def sizes(**changed):
    """Return SIZES with other values; those of RunSizes go into its `run`."""
    names = {field.name for field in dataclasses.fields(RunSizes)}
    run = dataclasses.replace(RUN, **{name: value for name, value in changed.items() if name in names})
    return dataclasses.replace(SIZES, run=run, **{name: value for name, value in changed.items() if name not in names})


def need(**changed):
    return estimate_gpu(MODEL, sizes(**changed))


def test_what_eight_gpus_hold_of_a_model_while_it_trains():
    assert need().trainer == TrainerNeed(
        weights=0.5e9,  # 4 bytes of 1e9 numbers, over 8
        gradients=0.5e9,
        moments=1e9,
        # The largest group is a matrix of 100,000 x 1,000, since a layer has 8e7 numbers: two of them in bfloat16, and
        # the gradients of one in bfloat16 and in float32.
        gathered=1e8 * (2 * 2 + 2 + 4),
        # One layer is computed again, with 14 vectors of 1,000 and 4 of 4,000; the inputs of all ten are kept.
        activations=1000 * (2 * (14_000 + 16_000) + 10 * 2 * 1000),
        # 120 of 200 tokens are trained, in four copies of bfloat16.
        logits=4 * 600 * 100_000 * 2,
    )
    assert need().trainer.total == 0.5e9 + 0.5e9 + 1e9 + 1e9 + 0.08e9 + 0.48e9


def test_grpo_has_logits_of_every_token_and_all_activations_stay_without_checkpointing():
    assert need(scored=500).trainer.logits == 4 * 1000 * 100_000 * 2
    assert need(checkpointing=False).trainer.activations == 1000 * 10 * 60_000
    deep = dataclasses.replace(MODEL, layers=2)  # of 4e8 numbers each
    assert estimate_gpu(deep, SIZES).trainer.gathered == 4e8 * 10


def test_offloaded_weights_and_moments_are_on_the_gpu_while_it_trains_alone():
    assert (need().kept, need().offloaded) == (0.5e9 + 1e9, 0)
    moments = need(offloads_moments=True)
    assert (moments.kept, moments.offloaded, moments.trainer) == (0.5e9, 4 * 1e9, need().trainer)
    both = need(offloads_moments=True, offloads_weights=True)
    assert (both.kept, both.offloaded, both.trainer) == (0, 4 * 1.5e9, need().trainer)


def test_with_fsdp2s_policy_they_are_never_there():
    found = need(trains_from_host=True)
    trainer = found.trainer
    assert (trainer.weights, trainer.gradients, trainer.moments, found.kept) == (0, 0, 0, 0)
    assert trainer.gathered == need().trainer.gathered
    assert found.offloaded == 4 * 2e9


def test_the_engine_holds_its_part_of_the_weights_and_of_each_token():
    assert need().engine_weights == 1e9
    # 2 x 10 layers x 2 heads x 100 numbers of 2 bytes, over two GPUs; two heads cannot be divided over four.
    assert need().cached_token == need(tensor_parallel=4).cached_token == 4000
    assert need(tensor_parallel=1).cached_token == 8000
    assert need(serves=False).engine_weights == 0


def test_adapters_alone_have_gradients_and_moments():
    adapters = lora_parameters(MODEL, 8)
    # Queries and outputs join 1000 and 1000, keys and values 1000 and 200, the MLP's three 1000 and 4000.
    assert adapters == 8 * 10 * (2 * 2000 + 2 * 1200 + 3 * 5000)
    found = need(lora_rank=8)
    assert found.trainer.weights == (BILLION + adapters) * 4 / 8
    assert (found.trainer.gradients, found.trainer.moments) == (adapters / 2, adapters)
    assert found.trainer.gathered == 2 * 2 * 1e8
    assert found.offloaded == 4 * 1e9, "vLLM's weights sleep on the host"


def test_a_run_that_does_not_train_has_weights_alone():
    trainer = need(trains=False).trainer
    assert trainer == TrainerNeed(weights=0.5e9, gradients=0, moments=0, gathered=4e8, activations=0, logits=0)


def test_a_reference_and_what_is_read_lie_on_the_host():
    assert need(reference=True).offloaded == 4 * 0.5e9
    assert need().loading == 4e9
    tied = dataclasses.replace(MODEL, tied=True)
    assert estimate_gpu(tied, SIZES).loading == 4 * 4e9, "each process of the node reads a tied model"


def test_the_estimate_says_that_it_is_one():
    said = describe_gpu(MODEL, SIZES, 8 * GIB).splitlines()
    assert said[0].startswith("memory: GiB for each of 8 GPUs, of 8.0. ") and "never compared with a GPU" in said[0]
    assert said[1] == (
        "- trainer: 3.3 (weights 0.5, gradients 0.5, moments 0.9, gathered 0.9, activations 0.1, logits 0.4)"
    )
    # (4 GiB - 1e9) / 4000 bytes
    assert said[2] == (
        "- vLLM: 4.0 (weights 0.9; 3.1 left for its activations and the key-value cache, at most 824 thousand tokens "
        "or 1647 windows of 500 in a replica), while the trainer keeps 1.4"
    )
    assert said[3].startswith("- each node's own memory: 0 for what is offloaded, and 4 on the first node")
    assert len(said) == 4
    assert "of 80.0, which is assumed." in describe_gpu(MODEL, SIZES, None)


@pytest.mark.parametrize(
    "gpu, changed, advice",
    [
        (3, {}, "trainer does not fit.*ppo_max_token_len_per_gpu"),
        (6, {"sleeps": False, "share": 0.7}, "beside 4.2 for vLLM, which does not sleep"),
        (1, {}, "vLLM does not fit.*tensor_model_parallel_size"),
        (6, {"share": 0.9}, "both do not fit together.*param_offload"),
    ],
)
def test_what_does_not_fit_is_told_with_the_settings_that_lower_it(gpu, changed, advice):
    import re

    assert re.search(advice, describe_gpu(MODEL, sizes(**changed), gpu * GIB))


def test_the_smallest_gpu_counts_and_none_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_memory.gpu_memory() is None
    stub = tmp_path / "nvidia-smi"
    for said, found in (("echo 81559; echo 40960", 40960 << 20), ("echo [N/A]", None), ("exit 9", None)):
        stub.write_text(f"#!/bin/sh\n{said}\n")
        stub.chmod(0o755)
        assert gpu_memory.gpu_memory() == found


@pytest.mark.parametrize(
    ("gpu", "share", "said"),
    [
        (140, 0.6, "weights, gradients, AdamW's moments and what it computes take 142 GiB of each GPU, which has 140"),
        (200, 0.7, "while vLLM samples with 140 GiB, the trainer keeps 85 GiB of each GPU"),
        (300, 0.6, None),
    ],
)
def test_a_run_that_cannot_fit_by_what_is_counted_is_refused(monkeypatch, gpu, share, said):
    model = dataclasses.replace(MODEL, parameters=7.62e9)
    found = sizes(sharded=1, gpus=1, share=share)
    monkeypatch.setattr(memory_check, "largest_gpu", lambda: gpu * GIB)
    monkeypatch.setattr(memory_check, "joined_cluster", lambda config: None)
    monkeypatch.setattr(memory_check.ModelShape, "read", lambda path: model)
    monkeypatch.setattr(memory_check.GpuSizes, "read", lambda config, settings: found)
    role = {"model": {"path": "m"}, "actor": {"strategy": "fsdp2"}}
    problems = memory_check._gpu_problems(OmegaConf.create({"actor_rollout_ref": role}), settings=None)
    assert [problem[: len(said or "")] for problem in problems] == ([said] if said else [])
