"""Refuses what the inference engine or the attention would do wrongly, or not at all, without saying so."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec

from omegaconf import DictConfig

from leafe_verl.plugin.cluster import joined_cluster
from leafe_verl.plugin.cpu.vllm_build import cpu_version
from leafe_verl.plugin.resolvers import count_gpus
from leafe_verl.plugin.rollout.engine_requests import ENGINES
from leafe_verl.plugin.sizes import SEQUENCE_PARALLEL, sequence_parallel_size
from leafe_verl.versions import TESTED_VERL

TRY_SECONDS = 300
"""Time for torch to be imported and to use a GPU; generous, for a slow file system."""


def require_cpu_engine(config: DictConfig) -> None:
    """Raise ValueError if a run without a GPU would meet a vLLM that needs one."""
    if config.trainer.device != "cpu" or config.actor_rollout_ref.rollout.name != "vllm" or cpu_version():
        return
    if find_spec("vllm") is None or "cpu" in version("vllm"):
        return
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    told = "" if hidden is None else f" (CUDA_VISIBLE_DEVICES is {hidden!r})"
    raise ValueError(
        f"torch sees no GPU here{told}, or device=cpu was asked for, and the vLLM that is installed needs one; "
        "expected a GPU that torch sees, for which nvidia-smi shows the driver, or an environment without GPUs: "
        "SETUP_DEVICE=cpu before a recipe makes one in a checkout of its own"
    )


def engine_problems(config: DictConfig) -> list[str]:
    """Return what is wrong with the choice of engine and attention: what came, what was expected, and the setting."""
    checks = (
        _name_problems,
        _parallel_problems,
        _sequence_parallel_problems,
        _determinism_problems,
        _driver_problems,
    )
    return [problem for check in checks for problem in check(config)]


def _driver_problems(config: DictConfig) -> list[str]:
    """torch also counts GPUs that it cannot use, as with a driver older than its CUDA. A worker would find out."""
    if config.trainer.device != "cuda" or joined_cluster(config) or not count_gpus():
        return []
    command = [sys.executable, "-c", "import torch; torch.zeros(1, device='cuda')"]
    tried = subprocess.run(command, capture_output=True, text=True, timeout=TRY_SECONDS)
    if tried.returncode == 0:
        return []
    said = (tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"])[-1]
    return [
        f"torch {version('torch')} counts {count_gpus()} GPUs and cannot use them ({said}); expected a driver that is "
        "new enough for torch's CUDA, which nvidia-smi shows, or SETUP_DEVICE=cpu at the set-up, for the CPU"
    ]


def _name_problems(config: DictConfig) -> list[str]:
    """Requests are written for vLLM and SGLang, and what SGLang cannot do in verl is refused."""
    name, rollout = "actor_rollout_ref.rollout.name", config.actor_rollout_ref.rollout
    if rollout.name not in ENGINES:
        return [f"{name} is {rollout.name!r}; expected {' or '.join(ENGINES)}, whose requests this plugin can write"]
    if rollout.name == "vllm":
        return []
    problems = []
    if config.trainer.device == "cpu":
        problems.append(f"{name} is sglang, and without a GPU only vLLM's CPU build is prepared; expected {name}=vllm")
    elif find_spec("sglang") is None:
        problems.append(
            f"{name} is sglang, which is not installed; install it (pip install 'verl[sglang]=={TESTED_VERL}'), or "
            f"take {name}=vllm"
        )
    if rollout.full_determinism:
        problems.append(
            "actor_rollout_ref.rollout.full_determinism is true, which verl does for vLLM alone; expected false, or "
            f"{name}=vllm"
        )
    return problems


def _parallel_problems(config: DictConfig) -> list[str]:
    """verl's workers would find out once the model is loaded."""
    sizes = {
        f"actor_rollout_ref.rollout.{kind}_parallel_size": config.actor_rollout_ref.rollout[f"{kind}_parallel_size"]
        for kind in ("tensor_model", "data", "pipeline_model")
    }
    ranks, engine = config.trainer.nnodes * config.trainer.n_gpus_per_node, math.prod(sizes.values())
    if ranks % engine == 0:
        return []
    told = " x ".join(f"{name} ({size})" for name, size in sizes.items() if size != 1)
    return [
        f"an engine takes {engine} ranks by {told}, and there are {ranks} (trainer.nnodes x trainer.n_gpus_per_node); "
        "expected a divisor of that number"
    ]


def _sequence_parallel_problems(config: DictConfig) -> list[str]:
    """verl exchanges parts of sequences within flash attention alone (monkey_patch.py). With another attention each
    rank would see its own part of every sequence, and nobody would say so."""
    role, size = config.actor_rollout_ref, sequence_parallel_size(config)
    attention = role.model.override_config.get("attn_implementation", "flash_attention_2")
    if size == 1 or (role.model.use_remove_padding and attention.startswith("flash_attention")):
        return []
    return [
        f"{SEQUENCE_PARALLEL} is {size}, with attention {attention!r} and "
        f"use_remove_padding={str(role.model.use_remove_padding).lower()}; expected 1, or flash-attn installed, "
        "actor_rollout_ref.model.override_config.attn_implementation=flash_attention_2 and "
        "actor_rollout_ref.model.use_remove_padding=true"
    ]


def _determinism_problems(config: DictConfig) -> list[str]:
    """vLLM's CPU build has no batch-invariant kernels. Beside others it may also read a prompt in parts, for which it
    asks a request's generator for what torch's CPU one has not (gpu_model_runner.py: set_offset)."""
    rollout = config.actor_rollout_ref.rollout
    if not rollout.full_determinism or config.trainer.device != "cpu" or rollout.max_num_seqs == 1:
        return []
    return [
        f"actor_rollout_ref.rollout.full_determinism is true, and .max_num_seqs is {rollout.max_num_seqs}; vLLM's CPU "
        "build is deterministic with one request at a time alone, expected actor_rollout_ref.rollout.max_num_seqs=1"
    ]
