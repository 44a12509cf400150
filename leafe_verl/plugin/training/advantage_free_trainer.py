"""The base class of trainers that train by other losses than policy gradients, or not at all."""

from __future__ import annotations

from typing import Any

from transfer_queue import KVBatchMeta

from leafe_verl.plugin.training.base_trainer import BaseTrainer
from leafe_verl.plugin.wire import TREES_FROM_STORE


class AdvantageFreeTrainer(BaseTrainer):
    """A trainer that needs neither log-probs nor advantages of the tokens that it collected."""

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Do nothing."""
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Do nothing."""
        return batch

    def _compute_metrics(
        self,
        batch: KVBatchMeta,
        metrics: dict[str, Any],
        timing_raw: dict[str, float],
        global_steps: int,
        epoch: int,
    ) -> None:
        """Add the step, timings and sampling speed. verl's hook needs advantages and returns, which are absent."""
        metrics.update({"training/global_step": global_steps, "training/epoch": epoch})
        metrics.update({f"timing_s/{name}": seconds for name, seconds in timing_raw.items()})
        # Trees from the store took no time in this process.
        if (seconds := timing_raw.get("gen")) and not metrics.get(f"leafe/{TREES_FROM_STORE}"):
            metrics["leafe/sampled_tokens_per_s"] = metrics.get("leafe/sampled_tokens", 0) / seconds
