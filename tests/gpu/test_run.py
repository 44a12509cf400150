"""A whole LEAFE run on one GPU with the tiny model."""

import importlib.metadata

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("verl", reason="verl is not installed")

from end_to_end.launch import launch
from end_to_end.tiny_model import make_tiny_model


def cuda_vllm() -> bool:
    try:
        return "cpu" not in importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return False


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(not cuda_vllm(), reason="needs vLLM's CUDA build: pip install 'leafe-verl[gpu]'"),
]


def test_leafe_trains_on_a_gpu(tmp_path):
    metrics = launch(
        *("leafe", make_tiny_model(tmp_path / "model"), tmp_path / "run"),
        *("device=gpu", "trainer.n_gpus_per_node=1", "trainer.total_training_steps=2"),
        "actor_rollout_ref.rollout.gpu_memory_utilization=0.3",
        "actor_rollout_ref.actor.fsdp_config.dtype=bfloat16",
    )
    assert sorted(metrics) == [1, 2]
    assert all(metrics[step]["actor/grad_norm"] > 0 for step in metrics)
