"""Sizes of a run that several settings decide together."""

from __future__ import annotations

from omegaconf import DictConfig

SEQUENCE_PARALLEL = "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size"
"""The setting that `sequence_parallel_size` reads; messages name it."""


def sequence_parallel_size(config: DictConfig) -> int:
    """Return how many ranks compute a sequence together: verl's setting, or, where it is above 1, its deprecated one.

    verl copies the deprecated actor.ulysses_sequence_parallel_size in its workers alone (FSDPActorConfig, actor.py).
    """
    actor = config.actor_rollout_ref.actor
    deprecated: int = actor.get("ulysses_sequence_parallel_size", 1)
    size: int = (actor.get("fsdp_config") or {}).get("ulysses_sequence_parallel_size", 1)
    return deprecated if deprecated > 1 else size


def model_window(config: DictConfig) -> int:
    """Return the tokens that a prompt and the turn after it must fit into."""
    data = config.data
    window: int = config.actor_rollout_ref.rollout.max_model_len or data.max_prompt_length + data.max_response_length
    return window
