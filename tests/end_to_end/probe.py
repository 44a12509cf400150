"""LEAFE's trainer, measuring after each update whether vLLM samples from the new weights."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import register_trainer

from leafe_verl.plugin.training.leafe_trainer import LeafeTrainer

PROBED = "probe-{step}.json"
"""File in the run's folder with one sequence of tokens, and log p(token i + 1 | tokens up to i) after training step
`step`, as the trainer computes it."""


@register_trainer("leafe_probe")
class ProbedTrainer(LeafeTrainer):
    """Logs `probe/change` and `probe/pearson` of one example's log-probs, and keeps the trainer's in PROBED."""

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        self._probed, self._probe_metrics = None, metrics
        if self._phases:
            self._batch = KVBatchMeta(keys=batch.keys, tags=batch.tags, partition_id=batch.partition_id)
            position = next(i for i, tag in enumerate(batch.tags) if not tag.get("is_padding"))
            self._probed = KVBatchMeta(
                keys=batch.keys[position : position + 1],
                tags=batch.tags[position : position + 1],
                partition_id=batch.partition_id,
            )
            self._token_ids = self._field("input_ids").tolist()
            self._before = self._rollout_log_probs()
        return super()._update_actor(batch, metrics)

    def on_step_end(self) -> None:
        super().on_step_end()
        if self._probed is None:
            return
        after, trainer = self._rollout_log_probs(), self._trainer_log_probs()
        self._pending_sync_metrics = {
            "probe/change": float(np.abs(after - self._before).max()),
            "probe/pearson": float(np.corrcoef(np.exp(after), np.exp(trainer))[0, 1]),
        }
        kept = {"token_ids": self._token_ids, "log_probs": trainer.tolist()}
        (Path(self.config.run_dir) / PROBED.format(step=self.global_steps)).write_text(json.dumps(kept))

    def _field(self, name: str) -> Any:
        data = tq.kv_batch_get(keys=self._probed.keys, partition_id=self._probed.partition_id, select_fields=[name])
        return data[name][0]

    def _rollout_log_probs(self) -> np.ndarray:
        """log p(token i + 1 | tokens up to i) for the whole sequence, from vLLM."""
        params = {"temperature": 1.0, "max_tokens": 1, "prompt_logprobs": 0, "logprobs": False}
        request = self.get_llm_client().generate("probe", prompt_ids=self._token_ids, sampling_params=params)
        output = asyncio.run(request)
        values = output.extra_fields["prompt_logprobs"]
        return np.array([float(np.ravel(value)[0]) for value in values if value is not None])[
            : len(self._token_ids) - 1
        ]

    def _trainer_log_probs(self) -> np.ndarray:
        """The same from FSDP, for the whole batch, since one row cannot be divided over ranks."""
        self._batch.extra_info = {"calculate_entropy": False, "compute_loss": False, "temperature": 1.0}
        self.actor_rollout_wg.compute_log_prob(self._batch)
        return self._field("log_probs").float().numpy()[: len(self._token_ids) - 1]
