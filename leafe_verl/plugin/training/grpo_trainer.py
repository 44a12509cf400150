"""The trainer mode `grpo`, which is verl's GRPO on our environments."""

from __future__ import annotations

from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import register_trainer

from leafe_verl.plugin.training.base_trainer import TRAINED_TOKENS, UPDATES, BaseTrainer
from leafe_verl.plugin.training.records import tree_records


@register_trainer("grpo")
class GRPOTrainer(BaseTrainer):
    """verl's GRPO, with unbiased Pass@k in validation and counts of what was collected in the metrics."""

    def _balance_batch(
        self,
        batch: KVBatchMeta,
        metrics: dict[str, Any],
        logging_prefix: str = "global_seqlen",
        keep_minibatch: bool = False,
    ) -> KVBatchMeta:
        """Log the counts of the batch's attempts, then balance the batch as verl does."""
        self._log_counts(tree_records(batch), metrics)
        self.activity.begin("training", step=self.global_steps, detail=f"{len(batch)} sequences")
        return super()._balance_batch(batch, metrics, logging_prefix, keep_minibatch)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Log how much is trained on, then update the policy as verl does."""
        actor, rollout = self.config.actor_rollout_ref.actor, self.config.actor_rollout_ref.rollout
        rows = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["response_mask"])
        metrics[TRAINED_TOKENS] = actor.ppo_epochs * int(sum(mask.sum() for mask in rows["response_mask"].unbind()))
        metrics[UPDATES] = actor.ppo_epochs * (len(batch) // (actor.ppo_mini_batch_size * rollout.n))
        return super()._update_actor(batch, metrics)
