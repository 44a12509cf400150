"""Says before Ray starts how much memory a run needs, and refuses one that cannot fit."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from omegaconf import DictConfig

from leafe_verl.model_config import ModelShape, find_config, lost_its_tie
from leafe_verl.plugin.cluster import joined_cluster
from leafe_verl.plugin.preflight.available_memory import available_memory
from leafe_verl.plugin.preflight.cpu_memory import GIB, MemoryNeed, RunSizes, estimate, remedies
from leafe_verl.plugin.preflight.gpu_memory import (
    GpuSizes,
    describe_gpu,
    estimate_gpu,
    gpu_memory,
    largest_gpu,
)
from leafe_verl.plugin.settings import RunSettings

ANYWAY = "leafe.memory.refuse=false starts it all the same"
ESTIMATED = "a run on one machine that joins no cluster, with a model whose sizes are known"


@dataclass(frozen=True)
class MemoryCheck:
    """What a run needs of memory, what there is, and what would lower it."""

    need: MemoryNeed
    available: int | None
    """Bytes that the run may take; None where the system does not say."""
    remedies: list[tuple[str, float]]
    """Settings, each with the bytes that it saves alone."""
    untied: float
    """Bytes that a matrix costs which a conversion has stored twice; 0 if there is none."""

    def describe(self) -> str:
        """Return one line for a run that starts, and another one for a model that is larger than it had to be."""
        of = "" if self.available is None else f" of {self.available / GIB:.1f} GiB that are free for it"
        line = f"memory: this run needs {self.need}{of}"
        return f"{line}\n{self._untied()}" if self.untied else line

    def problem(self) -> str | None:
        """Return why the run does not fit, and which settings lower its need; None if it fits."""
        if self.available is None or self.need.total <= self.available:
            return None
        less = [*(f"{text} saves {saved / GIB:.1f}" for text, saved in self.remedies), "a smaller MODEL"]
        return (
            f"this run needs {self.need}, and {self.available / GIB:.1f} GiB are free for it. What would lower that, "
            f"in GiB: {'; '.join(less)}. leafe.memory.refuse=false starts it all the same"
            + (f". {self._untied()}" if self.untied else "")
        )

    def _untied(self) -> str:
        return (
            "the model's lm_head and embed_tokens are one matrix in two precisions, as in conversions from GGUF; tie "
            f"them (tie_word_embeddings in config.json, and one of the two saved) to save {self.untied / GIB:.1f} GiB"
        )


def check_memory(config: DictConfig, settings: RunSettings) -> MemoryCheck | None:
    """Return what is known of the memory that a resolved configuration needs.

    None for a run with GPUs or on several machines, and for a model whose sizes are not known.
    """
    if config.trainer.device != "cpu" or config.trainer.nnodes > 1 or joined_cluster(config):
        return None
    path = str(config.actor_rollout_ref.model.path)
    model = ModelShape.read(path)
    if model is None:
        return None
    run = RunSizes.read(config, settings)
    need, folder = estimate(model, run), find_config(path)
    untied = 0.0
    if not model.tied and folder and lost_its_tie(folder.parent):
        tied = dataclasses.replace(model, tied=True, parameters=model.parameters - model.embedding)
        untied = need.total - estimate(tied, run).total
    return MemoryCheck(need, available_memory(), remedies(model, run), untied)


def memory_problems(config: DictConfig, settings: RunSettings) -> list[str]:
    """Return why a run does not fit into memory, unless leafe.memory.refuse is false."""
    if not settings.memory.refuse:
        return []
    if config.trainer.device != "cpu":
        return _gpu_problems(config, settings)
    check = check_memory(config, settings)
    problem = check.problem() if check else None
    return [problem] if problem else []


def _gpu_problems(config: DictConfig, settings: RunSettings) -> list[str]:
    """Return why a run cannot fit on this machine's GPUs, by what is counted and not estimated."""
    role, memory = config.actor_rollout_ref, largest_gpu()
    model = ModelShape.read(str(role.model.path)) if role.actor.strategy in ("fsdp", "fsdp2") else None
    if model is None or memory is None or joined_cluster(config):
        return []
    sizes = GpuSizes.read(config, settings)
    need, gpu = estimate_gpu(model, sizes), f"each GPU, which has {memory / GIB:.0f}"
    share = sizes.share * memory if sizes.run.serves else 0.0
    if need.trainer.updating > memory:
        return [
            f"weights, gradients, AdamW's moments and what it computes take {need.trainer.updating / GIB:.0f} GiB "
            f"of {gpu}; expected more GPUs, actor_rollout_ref.model.lora_rank=32, "
            "actor_rollout_ref.actor.fsdp_config.offload_policy=true, a smaller MODEL, or SETUP_DEVICE=cpu at the "
            f"set-up, which trains a small one on the CPU. {ANYWAY}"
        ]
    if share and need.kept + share > memory:
        return [
            f"while vLLM samples with {share / GIB:.0f} GiB, the trainer keeps {need.kept / GIB:.0f} GiB of {gpu}; "
            "expected actor_rollout_ref.actor.fsdp_config.optimizer_offload=true and .param_offload=true, a lower "
            f"actor_rollout_ref.rollout.gpu_memory_utilization, or more GPUs. {ANYWAY}"
        ]
    return []


def describe_memory(config: DictConfig) -> str:
    """Return what is estimated for a run without problems, as lines for the log."""
    settings = RunSettings.from_config(config)
    if config.trainer.device != "cpu":
        return _describe_gpu_memory(config, settings)
    check = check_memory(config, settings)
    return check.describe() if check else f"memory: no estimate; without GPUs there is one for {ESTIMATED}"


def _describe_gpu_memory(config: DictConfig, settings: RunSettings) -> str:
    role = config.actor_rollout_ref
    if role.actor.strategy not in ("fsdp", "fsdp2"):
        return f"memory: no estimate for actor_rollout_ref.actor.strategy {role.actor.strategy}"
    model = ModelShape.read(str(role.model.path))
    if model is None:
        return "memory: no estimate, since the sizes of the model are not known here"
    return describe_gpu(model, GpuSizes.read(config, settings), gpu_memory())
