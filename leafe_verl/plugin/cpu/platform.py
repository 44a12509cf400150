"""Lets verl run without an accelerator: a platform, an engine registration and a process group for the CPU."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry, get_platform, set_platform


class CpuDevice:
    """Replaces `torch.cuda` for verl. The device has no memory of its own, so there is none to report or to empty."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def is_available(self) -> bool:
        """Return False, so that verl's memory tools do not look for device memory."""
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
        """Return the free and the total memory of the machine, in bytes."""
        pages, size = os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        return pages * size, os.sysconf("SC_PHYS_PAGES") * size

    def empty_cache(self) -> None:
        """Give the machine what the allocator keeps.

        verl calls this whenever weights are sent, in both processes, and our training worker after each batch.

        Blocks of activations and logits differ in size, so that hardly any fits into the room of another: GRPO with the
        embedded model kept 5 GiB more in each step, and LEAFE 2.
        """
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
            trim(0)

    def ipc_collect(self) -> None:
        """Do nothing, because no memory is shared with a device."""

    reset_peak_memory_stats = ipc_collect


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):  # type: ignore[misc]  # verl is Any to mypy
    """verl's platform for machines without an accelerator. Ray schedules logical GPUs instead of real ones."""

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
        """Do nothing, because there is one device."""

    def synchronize(self, device_index: int | None = None) -> None:
        """Do nothing, because work on the CPU is done when its call returns."""

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """Do nothing, because the CPU allocator has no settings."""

    def empty_cache(self) -> None:
        self.device_module.empty_cache()

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"  # the variable in which Ray hands out its logical GPUs

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        """Do nothing, because there is no device profiler."""

    def profiler_stop(self) -> None:
        """Do nothing, because there is no device profiler."""

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """Return False, so that verl sends weights to vLLM through shared memory."""
        return False

    def cudart(self) -> None:
        return None


DEVICE = "LEAFE_DEVICE"
"""Environment variable of a run's workers, which `device=cpu` sets to `cpu`."""


def select_platform() -> None:
    """Select the CPU platform if verl found no accelerator, or the run has `device=cpu`. VERL_PLATFORM overrides it.

    verl falls back to `nvidia` if it finds nothing, and may have done so before it loads plugins. It also takes it
    where nvidia-smi answers and torch sees no GPU.
    """
    chosen = os.environ.get("VERL_PLATFORM", "").strip().lower()
    if chosen not in ("", "cpu") or isinstance(get_platform(), CpuPlatform):
        return
    on_cpu = "cpu" in (chosen, os.environ.get(DEVICE))
    if on_cpu or not get_platform().is_platform_available(use_smi_check=True):
        set_platform(CpuPlatform())


def cpu_dtype(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the precision that LEAFE_CPU_DTYPE names, or what the processor is fast in.

    That is `bfloat16` if it has instructions for it, and `float32` otherwise. Emulated bfloat16 is slow: on an EPYC
    with only AVX2, the matrix products of a 135M model take 7 times as long.
    """
    if chosen := os.environ.get("LEAFE_CPU_DTYPE"):
        if chosen not in ("bfloat16", "float32"):
            raise ValueError(f"LEAFE_CPU_DTYPE is {chosen!r}; expected bfloat16 or float32, or no value for the faster")
        return chosen
    flags = cpuinfo.read_text() if cpuinfo.is_file() else ""
    return "bfloat16" if re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", flags) else "float32"


def share_cores() -> None:
    """Let this process compute on its part of the machine's cores.

    Ray gives an actor one thread. Nothing is sampled during training, so a machine's ranks share all cores: without an
    accelerator, and with one for what is offloaded, such as AdamW's step. verl says in RAY_LOCAL_WORLD_SIZE how many
    ranks there are; its LOCAL_WORLD_SIZE is always 1.
    """
    names = ("RAY_LOCAL_WORLD_SIZE", "LOCAL_WORLD_SIZE", "WORLD_SIZE")
    ranks = int(next((os.environ[name] for name in names if os.environ.get(name)), 1))
    torch.set_num_threads(max(len(os.sched_getaffinity(0)) // ranks, 1))


def prepare_engine() -> None:
    """Give this process its cores, and without an accelerator let it train on them.

    If no process group exists, verl/utils/distributed.py asks torch for the backend "cpu:gloo,cpu:gloo", which torch
    rejects. verl/workers/engine/fsdp/transformer_impl.py registers its engine only for cuda and npu.
    """
    share_cores()
    if get_platform().device_name != "cpu":
        return
    from verl.utils.distributed import initialize_global_process_group_ray
    from verl.workers.engine import EngineRegistry
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    initialize_global_process_group_ray(backend="gloo")
    for backend in ("fsdp", "fsdp2"):
        if "cpu" not in EngineRegistry._engines["language_model"][backend]:
            EngineRegistry.register(model_type="language_model", backend=backend, device="cpu")(FSDPEngineWithLMHead)
