"""What our configurations find out for themselves: the device, places of files, and what the user's environment says.

OmegaConf resolvers, registered in every process that imports verl. An empty environment variable counts as unset.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from packaging.version import Version

from leafe_verl.checkpoints import tree_store
from leafe_verl.embedded import DATA, SIZES, is_embedded, model_folder
from leafe_verl.model_config import ModelShape, read_config
from leafe_verl.plugin.cpu.platform import cpu_dtype
from leafe_verl.plugin.cpu.vllm_build import block_size
from leafe_verl.plugin.dtypes import full_name
from leafe_verl.plugin.ray_cores import ray_cpus
from leafe_verl.plugin.ray_job import require_named

FLASH_ATTENTION = Version("2.3.3")
"""The oldest flash-attn that transformers takes."""
DRIVERS = ("nvidiactl", "dxg", "kfd")
"""Device files of the drivers of NVIDIA, WSL and AMD."""


@functools.cache
def count_gpus() -> int:
    """Return the number of GPUs that torch sees. torch takes 2 s to import, so it is asked only beside a driver."""
    if not any(Path("/dev", driver).exists() for driver in DRIVERS):
        return 0
    import torch

    return torch.cuda.device_count()


def find_device() -> str:
    """Return the name of a configuration in the group `device`."""
    return "gpu" if count_gpus() else "cpu"


@functools.cache
def has_flash_attention() -> bool:
    """Return whether there is a flash-attn that transformers takes. It is compiled on most machines, so the recipes do
    without it. Version 4 has the same module under another name."""
    with suppress(metadata.PackageNotFoundError):
        return Version(metadata.version("flash-attn")) >= FLASH_ATTENTION
    return False


def read_variable(name: str, default: Any = None) -> Any:
    """Return an environment variable as text, whatever it looks like, or the default."""
    value = os.environ.get(name) or default
    if value is not default and "${" in value:
        raise ValueError(f"{name} is {value!r}; expected a name without '${{', which OmegaConf reads as a reference")
    return value


@functools.cache
def run_dir(name: str) -> str:
    """Return RUN_DIR, or a new folder below runs/NAME, as an absolute path: workers may run in another folder."""
    chosen = read_variable("RUN_DIR")
    require_named(chosen)
    folder = Path(chosen) if chosen else Path("runs", name, f"{datetime.now():%Y%m%d-%H%M%S}")
    return str(folder.expanduser().absolute())


@functools.cache
def metrics_file(folder: str) -> str:
    """Return a new metrics file in the run's folder: a resumed run writes another one, which is read after it."""
    return str(Path(folder) / f"metrics-{int(time.time())}.jsonl")


def weight_bucket(model: str) -> int:
    """Return the MB of the bucket that weights travel in: room for the largest matrix in float32.

    It is verl's own 2048 for a model whose config.json is not here. That of the embedded one may not be written yet.
    """
    shape = ModelShape.read(model) or (ModelShape.from_config(SIZES) if is_embedded(model) else None)
    if shape is None:
        return 2048
    return max(32, math.ceil(4 * max(shape.vocab, shape.intermediate) * shape.hidden / 2**20) + 1)


def engine_window(model: str, prompt: int, response: int) -> int:
    """Return the longest prompt with its answer that vLLM makes room for: an attempt's, within what the model takes.

    Left to itself vLLM makes room for the model's own longest, which is 16 GB of cache with Llama 3.1 8B.
    """
    config = read_config(model) or {}
    return min(prompt + response, config.get("max_position_embeddings") or prompt + response)


RESOLVERS: dict[str, Callable[..., Any]] = {
    "leafe_basename": lambda path: Path(path).name,
    "leafe_block_size": block_size,
    "leafe_cores": lambda: str(len(os.sched_getaffinity(0))),
    "leafe_cpu_dtype": cpu_dtype,
    "leafe_data": lambda name: str(DATA / f"{name}.jsonl"),
    "leafe_device": find_device,
    "leafe_embedded_model": lambda: str(model_folder()),
    "leafe_env": read_variable,
    "leafe_flash_attn": lambda value, otherwise: value if has_flash_attention() else otherwise,
    "leafe_gpus": lambda: count_gpus() or 8,
    "leafe_if_bfloat16": lambda dtype, value, otherwise: value if full_name(str(dtype)) == "bfloat16" else otherwise,
    "leafe_if_lora": lambda rank, value, otherwise: value if rank else otherwise,
    "leafe_if_embedded": lambda model, value, otherwise: value if is_embedded(str(model)) else otherwise,
    "leafe_metrics_file": metrics_file,
    "leafe_on": lambda device, cpu, gpu: cpu if device == "cpu" else gpu,
    "leafe_run_dir": run_dir,
    "leafe_ray_cpus": ray_cpus,
    "leafe_tree_store": lambda checkpoints: str(tree_store(Path(checkpoints))),
    "leafe_window": lambda model, prompt, response: engine_window(str(model), prompt, response),
    "leafe_weight_bucket": lambda model: weight_bucket(str(model)),
}


def register_resolvers() -> None:
    for name, resolve in RESOLVERS.items():
        OmegaConf.register_new_resolver(name, resolve, replace=True)


if __name__ == "__main__":
    print(find_device())
