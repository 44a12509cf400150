"""Trainer modes: `leafe` collects, distils, syncs, validates; `grpo` is verl's own, with our validation."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from typing import Any

import ray
import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.metric import reduce_metrics
from verl.utils.py_functional import rename_dict
from verl.workers.engine_workers import ActorRolloutRefWorker

from leafe_verl.core import Kind
from leafe_verl.core.statistics import ratios, total
from leafe_verl.evaluation.pass_at_k import ks_up_to, mean_pass_at_k
from leafe_verl.plugin.agent_loops import COUNTS_FIELD, KIND_FIELD
from leafe_verl.plugin.sft_worker import BETA, COUNTERFACTUAL, UPDATES, PolicyWorker, SFTWorker

logger = logging.getLogger(__name__)


class EpisodeTrainer(PPOTrainerSync):
    """verl's synchronous trainer with a worker of ours and unbiased Pass@k in validation."""

    worker_cls: type[ActorRolloutRefWorker] = PolicyWorker

    @property
    def trainer_mode(self) -> str:
        """`sync`, whatever mode was chosen: trainer_base.py takes any other name for an asynchronous trainer."""
        return "sync"

    @trainer_mode.setter
    def trainer_mode(self, configured: str) -> None:
        """The base class assigns the configured mode; it is kept in the configuration alone."""

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        verls = ActorRolloutRefWorker
        for role, actor_class in self.role_worker_mapping.items():
            if issubclass(actor_class.__ray_metadata__.modified_class, verls):
                self.role_worker_mapping[role] = ray.remote(self.worker_cls)

    def _val_metrics_update(
        self,
        data_sources: list[str],
        sample_uids: list[str],
        reward_extra_infos_dict: dict[str, list],
        sample_turns: list[int],
        expected_acc_counts: dict[tuple[str, str], int] | None = None,
    ) -> dict[str, float]:
        """Add unbiased Pass@k to verl's metrics, whose best@N resamples with replacement and reads low.

        Attempts without an outcome are counted as `unscored`, not as wrong.
        """
        metrics = super()._val_metrics_update(
            data_sources, sample_uids, reward_extra_infos_dict, sample_turns, expected_acc_counts=expected_acc_counts
        )
        scored: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
        for source, uid, acc in zip(data_sources, sample_uids, reward_extra_infos_dict.get("acc", []), strict=True):
            scored[source][uid].append(bool(acc))
        expected: dict[str, int] = defaultdict(int)
        for (source, _), number in (expected_acc_counts or {}).items():
            expected[source] += number
        n = self.config.actor_rollout_ref.rollout.val_kwargs.n
        for source, tasks in scored.items():
            means = mean_pass_at_k(tasks, ks_up_to(n))
            metrics.update({f"val-core/{source}/pass@{k}": mean for k, mean in means.items()})
            attempts = sum(map(len, tasks.values()))
            metrics[f"val-aux/{source}/unscored"] = max(expected[source] - attempts, 0)
        return metrics


@register_trainer("grpo")
class GRPOTrainer(EpisodeTrainer):
    """verl's GRPO. The name differs from `sync` only so that validation reports Pass@k."""


@register_trainer("leafe")
class LeafeTrainer(EpisodeTrainer):
    """Collect exploration trees, distil their examples by SFT, sync the weights, validate.

    Every difference from PPO is an override of one of the base class's hooks; its loop is untouched.
    """

    worker_cls = SFTWorker

    def _balance_batch(self, batch: KVBatchMeta, metrics: dict, **kwargs: Any) -> KVBatchMeta:
        """Take the trees' counts out of the batch, then pad and balance the examples that remain."""
        records = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
        extras = [getattr(extra, "data", extra) for extra in records["extra_fields"]]
        self._log_trees([extra[COUNTS_FIELD] for extra in extras if COUNTS_FIELD in extra], metrics)
        kinds = {key: extra[KIND_FIELD] for key, extra in zip(batch.keys, extras, strict=True) if KIND_FIELD in extra}
        self._num_examples = len(kinds)
        if not kinds:
            logger.warning("step %d: no example in %d trees, nothing to distil", self.global_steps, len(batch.keys))
            return batch
        trees = [key for key in batch.keys if key not in kinds]
        tq.kv_clear(keys=trees, partition_id=batch.partition_id)
        tags = [tag for key, tag in zip(batch.keys, batch.tags, strict=True) if key in kinds]
        examples = KVBatchMeta(
            partition_id=batch.partition_id, keys=list(kinds), tags=tags, extra_info=batch.extra_info
        )
        examples = super()._balance_batch(examples, metrics, **kwargs)
        self._mark_counterfactual(examples, kinds)
        return examples

    def _log_trees(self, counts: list[dict[str, int]], metrics: dict) -> None:
        summed = total(counts)
        metrics.update({f"leafe/{name}": value for name, value in summed.items()})
        metrics.update({f"leafe/{name}": value for name, value in ratios(summed).items()})
        metrics["leafe/failed_trees"] = self.config.data.train_batch_size - len(counts)

    def _mark_counterfactual(self, examples: KVBatchMeta, kinds: dict[str, str]) -> None:
        """Write which loss each row belongs to; rows of padding train nothing and may belong to either."""
        marks = [int(kinds.get(key) == Kind.COUNTERFACTUAL.value) for key in examples.keys]
        fields = TensorDict({COUNTERFACTUAL: torch.tensor(marks)}, batch_size=len(marks))
        tq.kv_batch_put(keys=examples.keys, partition_id=examples.partition_id, fields=fields)

    def _num_mini_batches(self) -> int:
        """Optimiser steps of one epoch: mini-batches of at most ppo_mini_batch_size * rollout.n examples."""
        config = self.config.actor_rollout_ref
        return math.ceil(self._num_examples / (config.actor.ppo_mini_batch_size * config.rollout.n))

    def _get_required_batch_multiple(self, dp_size: int) -> int:
        """Rows are padded so that mini-batches are of one size and divide into ranks and micro-batches."""
        actor = self.config.actor_rollout_ref.actor
        micro_batch_size = 1 if actor.use_dynamic_bsz else actor.ppo_micro_batch_size_per_gpu
        return dp_size * micro_batch_size * self._num_mini_batches()

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """SFT needs none."""
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """SFT needs none."""
        return batch

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """Distil. A step without examples leaves the policy as it is."""
        if not self._num_examples:
            return batch
        actor = self.config.actor_rollout_ref.actor
        mini_batch_size = len(batch) // self._num_mini_batches()
        updates = self._num_mini_batches() * actor.ppo_epochs
        batch.extra_info.update(
            {
                "global_batch_size": mini_batch_size,
                "mini_batch_size": mini_batch_size,
                "epochs": actor.ppo_epochs,
                "seed": actor.data_loader_seed,
                "dataloader_kwargs": {"shuffle": actor.shuffle},
                "temperature": 1.0,  # the policy itself is trained, not the tempered one it was sampled from
                BETA: self.config.leafe.distillation.beta,
                UPDATES: updates,
            }
        )
        output = self.actor_rollout_wg.update_actor(batch)
        metrics.update(reduce_metrics(rename_dict(output["metrics"], "actor/")))
        metrics["leafe/optimizer_steps"] = updates
        return batch

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict, timing_raw: dict, global_steps: int, epoch: int
    ) -> None:
        """verl's own computes advantages' and returns' statistics, which SFT has not."""
        metrics.update({"training/global_step": global_steps, "training/epoch": epoch})
        metrics.update({f"timing_s/{name}": seconds for name, seconds in timing_raw.items()})
        if seconds := timing_raw.get("gen"):
            metrics["leafe/sampled_tokens_per_s"] = metrics["leafe/sampled_tokens"] / seconds
