"""The trainer mode `ace`, which merges what the policy learned from its attempts into a playbook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import register_trainer

from leafe_verl.core.playbook import Delta, Playbook
from leafe_verl.plugin.rollout.playbook_file import forget_advice, read_playbook, write_playbook
from leafe_verl.plugin.training.advantage_free_trainer import AdvantageFreeTrainer
from leafe_verl.plugin.training.base_trainer import TRAINED_TOKENS, UPDATES
from leafe_verl.plugin.training.records import tree_records


@register_trainer("ace")
class ACETrainer(AdvantageFreeTrainer):
    """Collects advice from plain attempts and merges it into the playbook. It trains no weights."""

    trains_weights = False

    def __init__(self, config: DictConfig) -> None:
        forget_advice(config)
        super().__init__(config)

    def _balance_batch(
        self,
        batch: KVBatchMeta,
        metrics: dict[str, Any],
        logging_prefix: str = "global_seqlen",
        keep_minibatch: bool = False,
    ) -> KVBatchMeta:
        """Update the playbook from the batch's records and return the batch as it is."""
        trees = tree_records(batch)
        self._log_counts(trees, metrics)
        # Attempts finish in any order, and the playbook must not depend on it.
        deltas = sorted((tree.delta for tree in trees if tree.delta), key=repr)
        self._log_advice(self._merge(deltas), deltas, metrics)
        return batch

    def _merge(self, deltas: Sequence[Delta]) -> Playbook:
        settings = self.config.leafe.playbook
        playbook = read_playbook(settings.path, begins_empty=True).merged(deltas, settings.max_characters)
        write_playbook(settings.path, playbook)
        return playbook

    def _log_advice(self, playbook: Playbook, deltas: Sequence[Delta], metrics: dict[str, Any]) -> None:
        metrics["leafe/looks_back"] = len(deltas)
        metrics["leafe/looks_back_parsed"] = sum(delta.parsed for delta in deltas)
        metrics["leafe/sampled_tokens"] += sum(delta.num_tokens for delta in deltas)
        metrics["leafe/advice"] = len(playbook.advice)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Train nothing, because ACE changes no weights."""
        metrics.update({TRAINED_TOKENS: 0, UPDATES: 0})
        return batch
