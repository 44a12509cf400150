"""LEAFE's trainer with a scripted model in place of the inference servers, measuring its processes' memory."""

from __future__ import annotations

import random
from typing import Any

import psutil
import ray
from omegaconf import DictConfig
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.workers.rollout.replica import TokenOutput

from end_to_end.tiny_model import END, LETTERS
from leafe_verl.plugin.training.leafe_trainer import LeafeTrainer


class ScriptedClient:
    """Answers every prompt with letters that the prompt's length draws."""

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **request: Any
    ) -> TokenOutput:
        draw = random.Random(f"{request_id} {len(prompt_ids)}")
        letters = draw.choices(LETTERS, k=draw.randrange(sampling_params["max_tokens"]))
        return TokenOutput(token_ids=[*letters, END], stop_reason="completed", extra_fields={"global_steps": 0})


@register_trainer("leafe_scripted")
class ScriptedTrainer(LeafeTrainer):
    """Collects and trains as ever, and serves nothing. Logs `memory/driver` and `memory/rollout_worker`, in MiB."""

    def __init__(self, config: DictConfig) -> None:
        self._enable_hybrid_replicas = False
        config.actor_rollout_ref.rollout.nnodes = 1  # as in LeafeTrainer
        super().__init__(config)

    def get_llm_client(self) -> ScriptedClient:
        return ScriptedClient()

    def on_init_end(self) -> None:
        """There is no server to sync."""

    def on_step_end(self) -> None:
        (worker,) = self.agent_loop_manager.agent_loop_workers
        self._pending_sync_metrics = {
            "memory/driver": psutil.Process().memory_info().rss / 2**20,
            "memory/rollout_worker": ray.get(worker.usage.remote()).memory,
        }
