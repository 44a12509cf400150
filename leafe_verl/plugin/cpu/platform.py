"""Running verl without an accelerator: a platform, an engine registration and a process group."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry, get_platform, set_platform


class CpuDevice:
    """What verl asks of `torch.cuda`, for a device that has no memory of its own to report or to empty."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def is_available(self) -> bool:
        """False: there is no device memory, and verl's memory tools ask this before they look at it."""
        return False

    def get_device_name(self, device: Any = None) -> str:
        return "CPU"

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def memory_allocated(self, device: Any = None) -> int:
        return 0

    memory_reserved = max_memory_allocated = max_memory_reserved = memory_allocated

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        """(free, total) bytes of the machine's memory."""
        pages, size = os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        return pages * size, os.sysconf("SC_PHYS_PAGES") * size

    def empty_cache(self) -> None:
        """Nothing is cached."""

    ipc_collect = reset_peak_memory_stats = empty_cache


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):  # type: ignore[misc]  # verl is Any to mypy
    """verl's platform interface for machines without an accelerator. Ray counts logical GPUs in their place."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = CpuDevice()

    def is_available(self) -> bool:
        return True

    def current_device(self) -> Any:
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        """There is one."""

    def synchronize(self, device_index: int | None = None) -> None:
        """Work on the CPU is done when the call returns."""

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """The CPU allocator takes none."""

    def empty_cache(self) -> None:
        """Nothing is cached."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"  # the variable in which Ray hands out its logical GPUs

    @contextmanager
    def nvtx_range(self, msg: str):  # type: ignore[no-untyped-def]
        yield

    def profiler_start(self) -> None:
        """No device profiler."""

    def profiler_stop(self) -> None:
        """No device profiler."""

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """False: weights travel to vLLM through shared memory."""
        return False

    def cudart(self) -> None:
        return None


def select_platform() -> None:
    """Make CPU the platform where verl found no accelerator; VERL_PLATFORM overrides, as verl has it.

    verl falls back to `nvidia` when it finds nothing, and may have done so before plugins were loaded.
    """
    chosen = os.environ.get("VERL_PLATFORM", "").strip().lower()
    if chosen not in ("", "cpu") or isinstance(get_platform(), CpuPlatform):
        return
    if chosen == "cpu" or not get_platform().is_platform_available(use_smi_check=True):
        set_platform(CpuPlatform())


def cpu_dtype(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return `bfloat16` where the processor computes in it, and else `float32`.

    Elsewhere bfloat16 is emulated: on an EPYC with AVX2 alone the matrix products of a 135M model take 7 times as long.
    """
    flags = cpuinfo.read_text() if cpuinfo.is_file() else ""
    return "bfloat16" if re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", flags) else "float32"


def prepare_engine() -> None:
    """Let this process train on the CPU. Does nothing on an accelerator.

    verl/utils/distributed.py asks torch for the backend "cpu:gloo,cpu:gloo", which torch refuses, unless a process
    group exists; and verl/workers/engine/fsdp/transformer_impl.py registers its engine for cuda and npu alone.
    """
    if get_platform().device_name != "cpu":
        return
    from verl.utils.distributed import initialize_global_process_group_ray
    from verl.workers.engine import EngineRegistry
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    initialize_global_process_group_ray(backend="gloo")
    # Ray gives an actor one thread; the trainer's ranks share all cores, while nothing samples.
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE") or 1)
    torch.set_num_threads(max((os.cpu_count() or 1) // local_ranks, 1))
    for backend in ("fsdp", "fsdp2"):
        if "cpu" not in EngineRegistry._engines["language_model"][backend]:
            EngineRegistry.register(model_type="language_model", backend=backend, device="cpu")(FSDPEngineWithLMHead)
