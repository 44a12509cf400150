"""What samples in place of vLLM's own function on the CPU: the same distribution, and never what was ruled out."""

import sys
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")

from leafe_verl.plugin.cpu import vllm_sampling
from leafe_verl.plugin.cpu.vllm_sampling import sample, sample_faster

NEVER = float("-inf")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_token_is_drawn_with_its_probability(dtype):
    torch.manual_seed(0)
    logits = torch.tensor([2.0, -1.0, NEVER, 0.5, 0.0], dtype=dtype)
    counts = torch.bincount(sample(logits.expand(100_000, -1)), minlength=5)
    expected = logits.softmax(dim=-1, dtype=torch.float32)
    assert (counts / 100_000 - expected).abs().max() < 0.006, "four standard errors"
    assert counts[2] == 0


def test_rows_are_drawn_apart_from_each_other():
    torch.manual_seed(0)
    only = torch.full((3, 7), NEVER)
    only[0, 6], only[1, 0], only[2, 3] = -50.0, 80.0, 0.0
    assert sample(only).tolist() == [6, 0, 3]


@pytest.mark.parametrize("number", [0.0, 1 - 2**-24, 1.0])
def test_a_number_at_either_end_draws_no_token_that_was_ruled_out(monkeypatch, number):
    monkeypatch.setattr(torch, "rand_like", lambda like: torch.full_like(like, number))
    torch.manual_seed(0)
    logits = torch.randn(64, 1000)
    logits[:, :9] = logits[:, -9:] = NEVER
    drawn = sample(logits)
    assert drawn.shape == (64,) and drawn.dtype == torch.int64
    assert torch.isfinite(logits.gather(1, drawn.view(-1, 1))).all()


def test_a_row_without_any_probability_gives_a_token_that_exists():
    assert 0 <= sample(torch.full((1, 5), NEVER)).item() < 5


@pytest.fixture
def vllm(monkeypatch):
    """Return a function that puts a vLLM with the given sampler in the place of the installed one."""

    def install(sampler, version="9.9.9"):
        module = ModuleType("vllm.v1.sample.ops.topk_topp_sampler")
        module.compiled_random_sample = sampler
        ops = ModuleType("vllm.v1.sample.ops")
        ops.topk_topp_sampler = module
        for name in ("vllm", "vllm.v1", "vllm.v1.sample"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setitem(sys.modules, ops.__name__, ops)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(vllm_sampling, "cpu_version", lambda: version)
        return module

    return install


def test_vllms_function_is_replaced_where_it_takes_what_ours_takes(vllm):
    module = vllm(lambda logits: None)
    sample_faster()
    assert module.compiled_random_sample is sample


def test_another_function_of_that_name_stays(vllm):
    theirs = lambda logits, generators: None  # noqa: E731
    module = vllm(theirs)
    sample_faster()
    assert module.compiled_random_sample is theirs


def test_nothing_happens_beside_vllms_build_for_gpus(vllm):
    theirs = lambda logits: None  # noqa: E731
    module = vllm(theirs, version=None)
    sample_faster()
    assert module.compiled_random_sample is theirs
