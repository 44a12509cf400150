"""LEAFE's update under FSDP on CUDA against the same on the CPU."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("verl", reason="verl is not installed")

from end_to_end.test_ranks import update
from end_to_end.tiny_model import make_tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_cuda_with_padding_removed_equals_the_cpu_in_float32(tmp_path, monkeypatch):
    model = make_tiny_model(tmp_path / "model")
    cuda = update(model, tmp_path / "cuda.json", 1, "--remove-padding")
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    cpu = update(model, tmp_path / "cpu.json", 1)
    assert cuda == pytest.approx(cpu, abs=1e-3)
