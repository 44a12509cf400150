"""Trainer modes: `leafe` collects, distils, syncs, validates; `ace` collects advice; `grpo` is verl's own.

Every difference from verl's loop is an override of one of its hooks.
"""

from __future__ import annotations

import logging
import math
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.utils.metric import reduce_metrics
from verl.utils.py_functional import rename_dict
from verl.workers.engine_workers import ActorRolloutRefWorker

from leafe_verl.checkpoints import repair_tracker
from leafe_verl.core import Kind
from leafe_verl.core.playbook import Delta
from leafe_verl.core.sft_examples import PHASES
from leafe_verl.core.statistics import ratios, total
from leafe_verl.evaluation.pass_at_k import ks_up_to, mean_pass_at_k
from leafe_verl.plugin.rollout.agent_loops import (
    BRANCH_FIELD,
    COUNTS_FIELD,
    DELTA_FIELD,
    KIND_FIELD,
    ORIGIN_FIELD,
    REPLAY,
    SHARED_FIELD,
)
from leafe_verl.plugin.rollout.inference_servers import InferenceServers, RetryingClient
from leafe_verl.plugin.rollout.playbook_file import read_playbook, write_playbook
from leafe_verl.plugin.training.batches import MiniBatchOrder, Row, plan
from leafe_verl.plugin.training.checkpointing_trainer import CheckpointingTrainer
from leafe_verl.plugin.training.prefix_batch import TERM
from leafe_verl.plugin.training.sft_worker import SHARE, UPDATES, WEIGHTS, PolicyWorker, SFTWorker
from leafe_verl.plugin.training.tracking import track
from leafe_verl.task_files import read_tasks
from leafe_verl.trees.telling import TellingBranch, most_telling

logger = logging.getLogger(__name__)


class EpisodeTrainer(CheckpointingTrainer):
    """verl's synchronous trainer with a worker of ours, unbiased Pass@k in validation, and processes that may die."""

    worker_cls: type[ActorRolloutRefWorker] = PolicyWorker

    def _setup(self) -> None:
        super()._setup()
        self._servers = InferenceServers(self.llm_server_manager)

    def get_llm_client(self) -> RetryingClient:
        return self.llm_server_manager.get_client(client_cls=RetryingClient)

    def _log_counts(self, extras: list[dict], metrics: dict) -> None:
        counts = [extra[COUNTS_FIELD] for extra in extras if COUNTS_FIELD in extra]
        summed = total(counts)
        metrics.update({f"leafe/{name}": value for name, value in summed.items()})
        metrics.update({f"leafe/{name}": value for name, value in ratios(summed).items()})
        expected = self.config.data.train_batch_size * self.collected_per_task
        metrics["leafe/missing"] = max(expected - summed.get("trees", 0), 0)
        faults = {**self.agent_loop_manager.faults, **self.agent_loop_manager.losses()}
        metrics.update({f"leafe/{name}": number for name, number in faults.items()})
        metrics["leafe/inference_server_deaths"] = self._servers.deaths

    def _load_checkpoint(self) -> None:
        repair_tracker(Path(self.config.trainer.default_local_dir))
        super()._load_checkpoint()

    def on_init_end(self) -> None:
        self._weights_of = self.global_steps
        self._servers.give_weights(super().on_init_end)

    def on_step_end(self) -> None:
        self._weights_of = self.global_steps
        if self._servers.replace_dead(now=True):
            self._servers.admit()
        self._servers.give_weights(super().on_step_end)

    def on_validate_begin(self) -> None:
        super().on_validate_begin()
        self._attach()

    def on_sample_begin(self) -> None:
        super().on_sample_begin()
        self._attach()

    def _attach(self) -> None:
        """Tie the replay buffer to the rollout workers, which are there only once verl has built this trainer."""
        self.replay_buffer.on_poll, self.replay_buffer.wait = self._watch, self.agent_loop_manager.wait_for_end

    def on_sample_end(self) -> None:
        self._replace_dead_servers(now=True)
        super().on_sample_end()

    def _watch(self, partition_id: str, ended: int, unfinished: set[str]) -> None:
        """Called while a batch of tasks is being played."""
        self.agent_loop_manager.replace_dead(unfinished, partition_id)
        self._replace_dead_servers()

    def _replace_dead_servers(self, *, now: bool = False) -> None:
        if self._servers.replace_dead(now=now):
            self._servers.give_weights(lambda: self.checkpoint_manager.update_weights(self._weights_of))
            self._servers.admit()

    @property
    def collected_per_task(self) -> int:
        """Records with counts that a task gives: one for each attempt."""
        return self.config.actor_rollout_ref.rollout.n

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
    """verl's GRPO, with unbiased Pass@k in validation and what was spent in the metrics."""

    def _balance_batch(self, batch: KVBatchMeta, metrics: dict, **kwargs: Any) -> KVBatchMeta:
        self._log_counts(_extra_fields(batch), metrics)
        return super()._balance_batch(batch, metrics, **kwargs)


class CollectingTrainer(EpisodeTrainer):
    """What needs neither log-probs nor advantages of what it collected."""

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        return batch

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict, timing_raw: dict, global_steps: int, epoch: int
    ) -> None:
        """verl's own computes advantages' and returns' statistics."""
        metrics.update({"training/global_step": global_steps, "training/epoch": epoch})
        metrics.update({f"timing_s/{name}": seconds for name, seconds in timing_raw.items()})
        if seconds := timing_raw.get("gen"):
            metrics["leafe/sampled_tokens_per_s"] = metrics.get("leafe/sampled_tokens", 0) / seconds


@dataclass(frozen=True)
class Phase:
    """Examples that are distilled together; the next phase begins where this one ends."""

    name: str
    batch: KVBatchMeta
    """Rank by rank, mini-batch by mini-batch, padded."""
    weights: dict[str, float]
    """Terms of the loss."""
    num_mini_batches: int
    """Optimiser steps of one epoch."""
    rows_per_rank: int
    """Of a mini-batch, padding included."""
    epochs: int


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

    @property
    def phase_weights(self) -> dict[str, dict[str, float]]:
        """Terms of the loss in each phase; see `PHASES`."""
        beta = self.config.leafe.distillation.beta
        return {
            name: {kind.value: beta if kind is Kind.REHEARSAL else 1.0 for kind in kinds}
            for name, kinds in PHASES.items()
        }

    def _balance_batch(self, batch: KVBatchMeta, metrics: dict, **kwargs: Any) -> KVBatchMeta:
        """Take the trees' counts out of the batch, then lay out the examples that remain, phase by phase."""
        extras = _extra_fields(batch)
        self._log_counts(extras, metrics)
        self._track_branches(extras)
        examples = {key: extra for key, extra in zip(batch.keys, extras, strict=True) if KIND_FIELD in extra}
        self._phases: list[Phase] = []
        if metrics["leafe/trees_unkept"] and not metrics.get("leafe/trees"):
            raise RuntimeError(
                f"none of {metrics['leafe/trees_unkept']} trees could be kept in {self.config.leafe.collection.store}: "
                "the rollout workers' log says why; once it is mended, the same command goes on from here"
            )
        if self._stages == "explore":
            return batch
        if not examples:
            logger.warning("step %d: no example in %d trees, nothing to distil", self.global_steps, len(batch.keys))
            return batch
        tq.kv_clear(keys=[key for key in batch.keys if key not in examples], partition_id=batch.partition_id)
        for name, weights in self.phase_weights.items():
            if mine := {key: extra for key, extra in examples.items() if extra[KIND_FIELD] in weights}:
                self._phases.append(self._phase(name, weights, _part(batch, mine), mine, metrics))
        return _joined([phase.batch for phase in self._phases])

    def _track_branches(self, extras: list[dict]) -> None:
        """Before the step's metrics: W&B takes nothing more for a step once the next has begun."""
        told = [TellingBranch.from_mapping(extra[BRANCH_FIELD]) for extra in extras if BRANCH_FIELD in extra]
        track(self.logger.logger, most_telling(told, self.config.leafe.tracking.branches), self.global_steps)

    def _phase(
        self, name: str, weights: dict[str, float], batch: KVBatchMeta, examples: dict[str, dict], metrics: dict
    ) -> Phase:
        """Lay out a phase's examples, given as the extra fields of each key."""
        actor = self.config.actor_rollout_ref.actor
        # Mini-batches of at most ppo_mini_batch_size * rollout.n examples.
        mini_batches = math.ceil(len(batch) / (actor.ppo_mini_batch_size * self.config.actor_rollout_ref.rollout.n))
        ranks = max(self.actor_rollout_wg._query_dispatch_info("actor")) + 1  # as trainer_base.py finds them
        draw = random.Random(f"{actor.data_loader_seed}:{self.global_steps}:{name}") if actor.shuffle else None
        layout = plan(self._rows(batch, examples), mini_batches=mini_batches, ranks=ranks, draw=draw)
        metrics[f"{name}/rank_imbalance"] = layout.imbalance
        # Without shared prefixes verl divides a rank's rows into micro-batches of one size.
        multiple = 1 if actor.use_dynamic_bsz else actor.ppo_micro_batch_size_per_gpu
        rows_per_rank = layout.rows_per_cell(multiple)
        batch = upsample_batch_to_divisible_size(
            batch, mini_batches * ranks * rows_per_rank, self.tokenizer.eos_token_id
        )
        padding = [key for key in batch.keys if key not in examples]
        batch = _part(batch, layout.keys(padding, multiple))
        # Rows of padding train nothing and may belong to any term.
        terms = [[*weights].index(examples[key][KIND_FIELD]) if key in examples else 0 for key in batch.keys]
        fields = TensorDict({TERM: torch.tensor(terms)}, batch_size=len(terms))
        tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
        epochs = self.config.leafe.distillation.world_model_epochs if name == "world_model" else actor.ppo_epochs
        return Phase(name, batch, weights, mini_batches, rows_per_rank, epochs)

    def _rows(self, batch: KVBatchMeta, examples: dict[str, dict]) -> list[Row]:
        """The examples tree by tree: trees finish in any order, and training must not depend on it."""
        share = self.config.leafe.distillation.share_prefixes
        lengths = {key: tag["seq_len"] for key, tag in zip(batch.keys, batch.tags, strict=True)}
        return [
            Row(key, tuple(extra[ORIGIN_FIELD][:2]), lengths[key], extra[SHARED_FIELD] if share else 0)
            for key, extra in sorted(examples.items(), key=lambda item: list(item[1][ORIGIN_FIELD]))
        ]

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """Distil. A step without examples leaves the policy as it is."""
        for phase in self._phases:
            self._distil(phase, metrics)
        return batch

    def _distil(self, phase: Phase, metrics: dict) -> None:
        actor = self.config.actor_rollout_ref.actor
        mini_batch_size = len(phase.batch) // phase.num_mini_batches
        seed = actor.data_loader_seed if actor.shuffle else None
        updates = phase.num_mini_batches * phase.epochs
        phase.batch.extra_info.update(
            {
                "global_batch_size": mini_batch_size,
                "mini_batch_size": mini_batch_size,
                "epochs": phase.epochs,
                "seed": actor.data_loader_seed,
                "dataloader_kwargs": {"sampler": MiniBatchOrder(phase.num_mini_batches, phase.rows_per_rank, seed)},
                "temperature": 1.0,  # the policy itself is trained, not the tempered one it was sampled from
                SHARE: self.config.leafe.distillation.share_prefixes,
                WEIGHTS: phase.weights,
                UPDATES: updates,
            }
        )
        output = self.actor_rollout_wg.update_actor(phase.batch)
        metrics.update(reduce_metrics(rename_dict(output["metrics"], f"{phase.name}/")))
        metrics["leafe/optimizer_steps"] = metrics.get("leafe/optimizer_steps", 0) + updates


@register_trainer("ace")
class ACETrainer(CollectingTrainer):
    """ACE: merges into a playbook what the policy learned from its attempts, and leaves the weights as they are."""

    trains_weights = False

    def _balance_batch(self, batch: KVBatchMeta, metrics: dict, **kwargs: Any) -> KVBatchMeta:
        extras = _extra_fields(batch)
        self._log_counts(extras, metrics)
        # Attempts finish in any order; the playbook must not depend on it.
        deltas = sorted((Delta(**extra[DELTA_FIELD]) for extra in extras if DELTA_FIELD in extra), key=repr)
        settings = self.config.leafe.playbook
        playbook = read_playbook(settings.path).merged(deltas, settings.max_characters)
        write_playbook(settings.path, playbook)
        metrics["leafe/looks_back"] = len(deltas)
        metrics["leafe/looks_back_parsed"] = sum(delta.parsed for delta in deltas)
        metrics["leafe/sampled_tokens"] += sum(delta.num_tokens for delta in deltas)
        metrics["leafe/advice"] = len(playbook.advice)
        return batch

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        return batch


def _extra_fields(batch: KVBatchMeta) -> list[dict]:
    records = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
    return [getattr(extra, "data", extra) for extra in records["extra_fields"]]


def _part(batch: KVBatchMeta, keys: Iterable[str]) -> KVBatchMeta:
    """The rows of `keys`, in their order."""
    tags = dict(zip(batch.keys, batch.tags, strict=True))
    keys = list(keys)
    return KVBatchMeta(
        partition_id=batch.partition_id,
        keys=keys,
        tags=[tags[key] for key in keys],
        extra_info=dict(batch.extra_info),
    )


def _joined(batches: list[KVBatchMeta]) -> KVBatchMeta:
    return KVBatchMeta(
        partition_id=batches[0].partition_id,
        keys=[key for batch in batches for key in batch.keys],
        tags=[tag for batch in batches for tag in batch.tags],
        extra_info=dict(batches[0].extra_info),
    )
