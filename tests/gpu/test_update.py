"""LEAFE's update under FSDP on CUDA: against the same on the CPU, and with prefixes shared against one by one."""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("verl", reason="verl is not installed")

from end_to_end.test_ranks import update
from end_to_end.tiny_model import make_tiny_model
from leafe_verl.plugin.training import prefix_attention
from leafe_verl.plugin.training.prefix_tree import merge

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_cuda_with_padding_removed_equals_the_cpu_in_float32(tmp_path, monkeypatch):
    model = make_tiny_model(tmp_path / "model")
    cuda = update(model, tmp_path / "cuda.json", 1, "--remove-padding")
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.setenv(
        "VERL_DISABLE_FLASH_ATTN_CE", "1"
    )  # where there is flash-attn, verl takes its kernel on a CPU, too
    cpu = update(model, tmp_path / "cpu.json", 1)
    assert cuda == pytest.approx(cpu, abs=1e-3)


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_shared_prefixes_on_cuda_equal_one_by_one_in_float32(tmp_path, strategy):
    model = make_tiny_model(tmp_path / "model")
    one_by_one = update(model, tmp_path / "one_by_one.json", 1, "--strategy", strategy)
    shared = update(model, tmp_path / "shared.json", 1, "--strategy", strategy, "--share-prefixes")
    for term in ("loss_counterfactual", "loss_rehearsal"):
        assert shared[term] == pytest.approx(one_by_one[term], abs=1e-5)
    assert shared["weights"] == pytest.approx(one_by_one["weights"], abs=1e-3)


def test_flash_attention_sees_what_the_masks_allow(monkeypatch):
    pytest.importorskip("flash_attn", reason="flash-attn is not installed: pip install 'leafe-verl[gpu]'")
    tree = merge([(1, 2, 3, 4, 5), (1, 2, 6), (1, 2, 6, 7, 8), (9, 10)])
    layout = prefix_attention.tree_inputs(tree.parents, "cuda").layout
    torch.manual_seed(0)
    heads = {"query": 4, "key": 2, "value": 2}
    states = {
        name: torch.randn(1, number, len(tree.parents), 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for name, number in heads.items()
    }
    found = []
    for flash in (True, False):
        monkeypatch.setattr(prefix_attention, "is_flash_attn_2_available", lambda flash=flash: flash)
        module = SimpleNamespace(num_key_value_groups=2)
        output, _ = prefix_attention.attend(module, **states, attention_mask=None, layout=layout, scaling=0.125)
        found.append([output, *torch.autograd.grad(output.float().square().sum(), [*states.values()])])
    for with_flash, without in zip(*found, strict=True):
        torch.testing.assert_close(with_flash, without, atol=3e-2, rtol=3e-2)
