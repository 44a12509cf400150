"""The trainer mode `leafe`: collect exploration trees, distil their examples by SFT, sync the weights, validate."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.utils.metric import reduce_metrics
from verl.utils.py_functional import rename_dict

from leafe_verl.plugin.rollout.explore_loops import REPLAY
from leafe_verl.plugin.training.episode_trainer import EpisodeTrainer
from leafe_verl.plugin.training.phases import Phase, PhaseBuilder, prepare_update
from leafe_verl.plugin.training.records import join_batches, split_records
from leafe_verl.plugin.training.sft_worker import SFTWorker
from leafe_verl.plugin.training.tracking import track
from leafe_verl.plugin.wire import TREES_UNKEPT, ExampleRecord, TreeRecord
from leafe_verl.task_files import read_tasks
from leafe_verl.trees.telling import most_telling

logger = logging.getLogger(__name__)


class CollectingTrainer(EpisodeTrainer):
    """What needs neither log-probs nor advantages of what it collected."""

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        return batch

    def _compute_metrics(
        self,
        batch: KVBatchMeta,
        metrics: dict[str, Any],
        timing_raw: dict[str, float],
        global_steps: int,
        epoch: int,
    ) -> None:
        """verl's own computes advantages' and returns' statistics."""
        metrics.update({"training/global_step": global_steps, "training/epoch": epoch})
        metrics.update({f"timing_s/{name}": seconds for name, seconds in timing_raw.items()})
        if seconds := timing_raw.get("gen"):
            metrics["leafe/sampled_tokens_per_s"] = metrics.get("leafe/sampled_tokens", 0) / seconds


@register_trainer("leafe")
class LeafeTrainer(CollectingTrainer):
    """Collect exploration trees, distil their examples by SFT, sync the weights, validate."""

    worker_cls = SFTWorker
    collected_per_task = 1  # the tree

    def __init__(self, config: DictConfig) -> None:
        self._stages = config.leafe.schedule.stages
        self.trains_weights = self._stages != "explore"
        if store := config.leafe.collection.store:
            # Workers may run in another folder.
            config.leafe.collection.store = str(Path(store).expanduser().resolve())
        if self._stages == "distil":
            # verl's own way to do without inference servers; see `_setup` in trainer_base.py.
            self._enable_hybrid_replicas = False
            config.actor_rollout_ref.rollout.nnodes = 1  # asked for even where none is started: llm_server.py
            config.actor_rollout_ref.rollout.agent.default_agent_loop = REPLAY
            config.trainer.val_before_train, config.trainer.test_freq = False, -1
        super().__init__(config)

    def _init_dataloader(self) -> None:
        config = self.config
        if config.leafe.schedule.collect == "all":
            sources = [config.data.train_files] if isinstance(config.data.train_files, str) else config.data.train_files
            tasks = sum(len(read_tasks(source, config.data.environment)) for source in sources)
            most = config.data.get("train_max_samples", -1)
            config.data.train_batch_size = min(tasks, most) if most > 0 else tasks
            config.trainer.total_training_steps = 1
        super()._init_dataloader()

    def on_init_end(self) -> None:
        if self._stages != "distil":
            super().on_init_end()

    def on_step_end(self) -> None:
        if self._stages != "distil":
            super().on_step_end()

    def on_sample_begin(self) -> None:
        self._interrupted = False
        super().on_sample_begin()

    def on_sample_end(self) -> None:
        if self._interrupted:  # requests that nobody waits for must not meet a sleeping server
            self.checkpoint_manager.abort_replicas()
            self.checkpoint_manager.resume_generation_replicas()
        super().on_sample_end()

    def _watch(self, partition_id: str, ended: int, unfinished: set[str]) -> None:
        super()._watch(partition_id, ended, unfinished)
        enough = math.ceil(self.config.leafe.collection.share * self.config.data.train_batch_size)
        if partition_id == "train" and ended >= enough and unfinished and not self._interrupted:
            self._interrupted = True
            self.agent_loop_manager.stop_exploring(self.global_steps)

    def _save_checkpoint(self) -> None:
        """Stage 1 alone changes no weights: its store is what it leaves."""
        if self._stages != "explore":
            super()._save_checkpoint()

    def _balance_batch(
        self,
        batch: KVBatchMeta,
        metrics: dict[str, Any],
        logging_prefix: str = "global_seqlen",
        keep_minibatch: bool = False,
    ) -> KVBatchMeta:
        """Take the trees' summaries out of the batch and lay out its examples. verl trains on what this returns."""
        trees, examples = split_records(batch)
        self._log_counts(trees, metrics)
        self._track_branches(trees)
        self._refuse_unkept_trees(metrics)
        self._phases: list[Phase] = []
        """What `_update_actor`, the next hook that verl calls, distils."""
        if self._stages == "explore" or not self._has_examples(examples, len(trees)):
            return batch
        self._drop_summaries(batch, examples)
        self._phases = self._phase_builder().build(batch, examples)
        metrics.update({f"{phase.name}/rank_imbalance": phase.imbalance for phase in self._phases})
        return join_batches([phase.batch for phase in self._phases])

    def _track_branches(self, trees: Iterable[TreeRecord]) -> None:
        """Log the most telling branches before the step's metrics: W&B takes nothing more once the next step began."""
        branches = [tree.branch for tree in trees if tree.branch]
        track(self.logger.logger, most_telling(branches, self.config.leafe.tracking.branches), self.global_steps)

    def _refuse_unkept_trees(self, metrics: dict[str, Any]) -> None:
        if metrics[f"leafe/{TREES_UNKEPT}"] and not metrics.get("leafe/trees"):
            raise RuntimeError(
                f"none of {metrics[f'leafe/{TREES_UNKEPT}']} trees could be kept in "
                f"{self.config.leafe.collection.store}: the log of the rollout workers says why; once that is fixed, "
                "the same command goes on from here"
            )

    def _has_examples(self, examples: Mapping[str, ExampleRecord], trees: int) -> bool:
        if not examples:
            logger.warning("step %d: no example in %d trees, nothing to distil", self.global_steps, trees)
        return bool(examples)

    def _drop_summaries(self, batch: KVBatchMeta, examples: Mapping[str, ExampleRecord]) -> None:
        tq.kv_clear(keys=[key for key in batch.keys if key not in examples], partition_id=batch.partition_id)

    def _phase_builder(self) -> PhaseBuilder:
        ranks = max(self.actor_rollout_wg._query_dispatch_info("actor")) + 1  # as trainer_base.py counts them
        return PhaseBuilder(self.config, ranks, self.global_steps, self.tokenizer.eos_token_id)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Distil the phases that `_balance_batch` laid out. A step without examples leaves the policy as it is."""
        for phase in self._phases:
            self._distil(phase, metrics)
        return batch

    def _distil(self, phase: Phase, metrics: dict[str, Any]) -> None:
        prepare_update(phase, self.config)
        output = self.actor_rollout_wg.update_actor(phase.batch)
        metrics.update(reduce_metrics(rename_dict(output["metrics"], f"{phase.name}/")))
        metrics["leafe/optimizer_steps"] = metrics.get("leafe/optimizer_steps", 0) + phase.updates
