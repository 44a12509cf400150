"""What a run needs of each GPU's memory: an estimate from the model's sizes, which was never compared with a GPU.

Trainer and vLLM take turns on a GPU. While the trainer works, vLLM sleeps. While vLLM samples, it has its share of the
GPU (`gpu_memory_utilization`), and the trainer keeps there what is not offloaded. A run is refused where an update, or
vLLM's share and what the trainer keeps, exceeds a GPU by what is counted alone.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from omegaconf import DictConfig

from leafe_verl.core import Settings
from leafe_verl.model_config import ModelShape
from leafe_verl.plugin.preflight.cpu_memory import (
    ACTIVATIONS_HIDDEN,
    ACTIVATIONS_MLP,
    FEEDBACK_TOKENS,
    GIB,
    LOGIT_COPIES,
    RunSizes,
    lora_parameters,
)
from leafe_verl.plugin.sizes import model_window

ASSUMED_GPU = 80 * GIB
"""Memory of a GPU where none can be asked, as on a cluster's head without one."""
GROUPS_GATHERED = 2
"""Groups of weights (a layer, or a matrix of tokens) that a GPU has in full: one computes, the next one is fetched."""
REDUCED_BYTES = 4
"""Bytes of a number in the gradients of a group while they are summed over the GPUs."""


@dataclass(frozen=True)
class GpuSizes:
    """What of a run decides its need of each GPU, besides the model."""

    run: RunSizes
    """What does not depend on the device."""
    nodes: int
    gpus: int
    """GPUs of a node."""
    sharded: int
    """GPUs that the trainer's weights, gradients and moments are divided over."""
    tokens: int
    """Tokens of a micro-batch on one GPU."""
    offloads_weights: bool
    """Whether weights are moved to the host while vLLM samples (`param_offload`)."""
    offloads_moments: bool
    """The same for AdamW's moments (`optimizer_offload`)."""
    trains_from_host: bool
    """Whether weights, gradients and moments always lie on the host (`offload_policy` of FSDP2)."""
    tensor_parallel: int
    """GPUs of one replica of vLLM."""
    share: float
    """Share of a GPU that vLLM takes (`gpu_memory_utilization`)."""
    sleeps: bool
    """Whether vLLM gives its share back while the trainer works (`free_cache_engine`)."""
    window: int
    """Tokens of the longest prompt with its answer."""

    @classmethod
    def read(cls, config: DictConfig, settings: Settings) -> GpuSizes:
        """Return the sizes of the run that a resolved configuration and its settings describe."""
        role, run = config.actor_rollout_ref, RunSizes.read(config, settings)
        fsdp, rollout = role.actor.fsdp_config, role.rollout
        ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
        policy = bool(fsdp.offload_policy) and role.actor.strategy == "fsdp2"
        full = role.actor.ppo_max_token_len_per_gpu if role.actor.use_dynamic_bsz else run.micro_batch * run.length
        return cls(
            run=run,
            nodes=config.trainer.nnodes,
            gpus=config.trainer.n_gpus_per_node,
            sharded=fsdp.fsdp_size if 0 < fsdp.fsdp_size < ranks else ranks,
            tokens=full,
            offloads_weights=bool(fsdp.param_offload),
            offloads_moments=bool(fsdp.optimizer_offload),
            trains_from_host=policy,
            tensor_parallel=rollout.tensor_model_parallel_size,
            share=rollout.gpu_memory_utilization,
            sleeps=bool(rollout.free_cache_engine),
            window=model_window(config),
        )


@dataclass(frozen=True)
class TrainerNeed:
    """Bytes on each GPU while the trainer works, by what holds them."""

    weights: float
    gradients: float
    moments: float
    """AdamW's two moments."""
    gathered: float
    """The weights that a GPU computes with at the moment, and their gradients before these are divided."""
    activations: float
    logits: float

    @property
    def held(self) -> float:
        """What lies there all the time, which is counted by the model's sizes. The rest is estimated."""
        return self.weights + self.gradients + self.moments

    @property
    def updating(self) -> float:
        """What lies there in AdamW's step, which computes as many numbers as a moment has, for all weights at once."""
        return self.held + self.moments / 2

    @property
    def total(self) -> float:
        return sum(dataclasses.astuple(self), 0.0)


@dataclass(frozen=True)
class GpuNeed:
    """Bytes that a run needs of each GPU, and of each node's own memory."""

    trainer: TrainerNeed
    kept: float
    """What of the trainer stays on a GPU while vLLM samples."""
    engine_weights: float
    """vLLM's weights on one GPU; 0 if vLLM does not run."""
    cached_token: float
    """The key-value cache of one token on one GPU."""
    offloaded: float
    """What lies on a node's host."""
    loading: float
    """What the processes of the first node read before the weights are divided."""


def estimate_gpu(model: ModelShape, sizes: GpuSizes) -> GpuNeed:
    """Return what a run needs of each GPU and of each node."""
    run, held = sizes.run, _shards(model, sizes)
    on_gpu = held if not sizes.trains_from_host else dict.fromkeys(held, 0.0)
    activations, logits = _computed(model, sizes)
    trainer = TrainerNeed(**on_gpu, gathered=_gathered(model, sizes), activations=activations, logits=logits)
    engine = run.engine_bytes * model.parameters / sizes.tensor_parallel if run.serves else 0.0
    return GpuNeed(
        trainer=trainer,
        kept=(0 if sizes.offloads_weights else on_gpu["weights"])
        + (0 if sizes.offloads_moments else on_gpu["moments"]),
        engine_weights=engine,
        cached_token=run.engine_bytes * model.kv_numbers_per_token / min(sizes.tensor_parallel, model.kv_heads),
        offloaded=sizes.gpus * _offloaded(sizes, held, engine) + _reference(model, sizes),
        # Without a tie one process of a group reads the model; with one each of them does (verl's fsdp_utils.py).
        loading=run.weight_bytes * model.parameters * (sizes.gpus if model.tied else 1),
    )


def _shards(model: ModelShape, sizes: GpuSizes) -> dict[str, float]:
    """Return one GPU's part of what is divided, by the names of `TrainerNeed`."""
    run = sizes.run
    adapters = lora_parameters(model, run.lora_rank) if run.lora_rank else 0
    trained = (adapters or model.parameters) if run.trains else 0
    part = run.weight_bytes / sizes.sharded
    return {"weights": part * (model.parameters + adapters), "gradients": part * trained, "moments": 2 * part * trained}


def _gathered(model: ModelShape, sizes: GpuSizes) -> float:
    """Return the largest groups in full. verl divides layers and untied matrices of tokens one by one."""
    matrices = model.embedding * (1 if model.tied else 2)
    group = max((model.parameters - matrices) / model.layers, model.embedding)
    if not sizes.run.trains:  # what is sent to vLLM is gathered matrix by matrix
        return sizes.run.weight_bytes * model.embedding
    weights = GROUPS_GATHERED * sizes.run.compute_bytes * group
    return weights + (0 if sizes.run.lora_rank else (sizes.run.compute_bytes + REDUCED_BYTES) * group)


def _computed(model: ModelShape, sizes: GpuSizes) -> tuple[float, float]:
    """Return the activations and the logits of a micro-batch."""
    run, tokens = sizes.run, sizes.tokens
    if not run.trains:
        return 0.0, 0.0
    layer = (ACTIVATIONS_HIDDEN * model.hidden + ACTIVATIONS_MLP * model.intermediate) * run.compute_bytes
    inputs = model.hidden * run.compute_bytes * model.layers
    activations = tokens * (layer + inputs if run.checkpointing else layer * model.layers)
    # LEAFE computes logits of trained tokens alone: at most those of every turn, without what the environment answered.
    part = 1.0 if run.scored >= run.length else run.scored / (run.scored + FEEDBACK_TOKENS)
    return activations, LOGIT_COPIES * tokens * part * model.vocab * run.compute_bytes


def _offloaded(sizes: GpuSizes, held: dict[str, float], engine: float) -> float:
    """Return what lies on the host for one GPU, with vLLM's weights where it sleeps without dropping them."""
    sleeping = engine if sizes.run.lora_rank and sizes.sleeps else 0.0
    if sizes.trains_from_host:
        return sum(held.values()) + sleeping
    weights = held["weights"] if sizes.offloads_weights else 0.0
    return weights + (held["moments"] if sizes.offloads_moments else 0.0) + sleeping


def _reference(model: ModelShape, sizes: GpuSizes) -> float:
    """Return a node's part of the frozen model of a KL term, which verl keeps on the host. Adapters need none."""
    needed = sizes.run.reference and not sizes.run.lora_rank
    return sizes.gpus * sizes.run.weight_bytes * model.parameters / sizes.sharded if needed else 0.0


def gpu_memory() -> int | None:
    """Return the bytes of this machine's smallest GPU; None if nvidia-smi does not say. CUDA is not started."""
    return min(_gpus(), default=None)


def largest_gpu() -> int | None:
    """Return the bytes of this machine's largest GPU, which is at least as large as those that a run uses."""
    return max(_gpus(), default=None)


def _gpus() -> list[int]:
    """Return the bytes of each GPU that nvidia-smi lists, whatever CUDA_VISIBLE_DEVICES leaves of them."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        return [int(line) << 20 for line in said.split()]
    return []


def describe_gpu(model: ModelShape, sizes: GpuSizes, gpu: int | None) -> str:
    """Return the estimate as lines for the log. `gpu`: bytes of a GPU; None if unknown."""
    whole = gpu or ASSUMED_GPU
    of = f"{whole / GIB:.1f}" + ("" if gpu else ", which is assumed")
    need = estimate_gpu(model, sizes)
    lines = [
        f"memory: GiB for each of {sizes.nodes * sizes.gpus} GPUs, of {of}. "
        "This is an estimate that was never compared with a GPU",
        *_trainer_lines(need, sizes, whole),
        *(_engine_lines(need, sizes, whole) if sizes.run.serves else ()),
        f"- each node's own memory: {need.offloaded / GIB:.0f} for what is offloaded, and {need.loading / GIB:.0f} on "
        "the first node while the model is read",
    ]
    return "\n".join(lines)


def _trainer_lines(need: GpuNeed, sizes: GpuSizes, whole: int) -> Iterator[str]:
    trainer = need.trainer
    parts = [f"{part.name} {getattr(trainer, part.name) / GIB:.1f}" for part in dataclasses.fields(trainer)]
    awake = 0.0 if sizes.sleeps or not sizes.run.serves else sizes.share * whole
    beside = f", beside {awake / GIB:.1f} for vLLM, which does not sleep" if awake else ""
    yield f"- trainer: {trainer.total / GIB:.1f} ({', '.join(parts)}){beside}"
    if trainer.total + awake > whole:
        yield (
            "  By this estimate the trainer does not fit. Lower actor_rollout_ref.actor.ppo_max_token_len_per_gpu, or "
            "take more nodes (trainer.nnodes), actor_rollout_ref.model.lora_rank, or "
            "actor_rollout_ref.actor.fsdp_config.offload_policy=true"
        )


def _engine_lines(need: GpuNeed, sizes: GpuSizes, whole: int) -> Iterator[str]:
    share = sizes.share * whole
    left = max(share - need.engine_weights, 0.0)
    tokens = left / need.cached_token
    weights = f"weights {need.engine_weights / GIB:.1f}"
    cache = f"{tokens / 1000:,.0f} thousand tokens or {tokens // sizes.window:.0f} windows of {sizes.window}"
    yield (
        f"- vLLM: {share / GIB:.1f} ({weights}; {left / GIB:.1f} left for its activations "
        f"and the key-value cache, at most {cache} in a replica), while the trainer keeps {need.kept / GIB:.1f}"
    )
    if left <= 0:
        yield (
            "  By this estimate vLLM does not fit. Raise actor_rollout_ref.rollout.tensor_model_parallel_size or "
            ".gpu_memory_utilization"
        )
    elif share + need.kept > whole:
        yield (
            "  By this estimate both do not fit together. Lower actor_rollout_ref.rollout.gpu_memory_utilization, or "
            "set .param_offload and .optimizer_offload of actor_rollout_ref.actor.fsdp_config"
        )
