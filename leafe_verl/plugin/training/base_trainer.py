"""The base class of our trainer modes.

Every difference from verl's training loop is an override of one of its hooks.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from verl.workers.engine_workers import ActorRolloutRefWorker

from leafe_verl.checkpoints import repair_tracker
from leafe_verl.core.recovery_figures import recovery_by_task
from leafe_verl.core.statistics import count_tasks, ratios, total
from leafe_verl.evaluation.pass_at_k import common_ks, mean_pass_at_k
from leafe_verl.evaluation.recovery import TaskCounts
from leafe_verl.evaluation.validations import Outcomes, Validation, append_validation
from leafe_verl.plugin.rollout.inference_servers import InferenceServers, RetryingClient
from leafe_verl.plugin.training.checkpointing_trainer import CheckpointingTrainer
from leafe_verl.plugin.training.sft_worker import PolicyWorker
from leafe_verl.plugin.training.validation import recovery_metrics
from leafe_verl.plugin.wire import TreeRecord, attempts_from_infos

if TYPE_CHECKING:
    # Both import verl.trainer.ppo.v1, which imports this module: a Ray worker that imports them first could not.
    from leafe_verl.plugin.rollout.replay_buffer import ProgressReplayBuffer
    from leafe_verl.plugin.rollout.rollout_worker import RolloutManager

logger = logging.getLogger(__name__)


TRAINED_TOKENS = "leafe/trained_tokens"
"""Metric: number of tokens that a step computed the loss on, in all its epochs."""
UPDATES = "leafe/updates"
"""Metric: number of optimiser steps of a training step."""


class BaseTrainer(CheckpointingTrainer):
    """verl's synchronous trainer with our worker, unbiased Pass@k in validation, and restarts of processes that die."""

    worker_cls: type[ActorRolloutRefWorker] = PolicyWorker
    agent_loop_manager: RolloutManager
    replay_buffer: ProgressReplayBuffer

    def _setup(self) -> None:
        self.activity.begin("starting", step=0)
        super()._setup()
        self.activity.plan(self.total_training_steps)
        self._servers = InferenceServers(self.llm_server_manager, self.actor_rollout_wg.give_back_memory)

    def get_llm_client(self) -> RetryingClient:
        """Return the client that rollout workers use, which survives the death of a server."""
        client: RetryingClient = self.llm_server_manager.get_client(client_cls=RetryingClient)
        return client

    def _log_counts(self, trees: Iterable[TreeRecord], metrics: dict[str, Any]) -> None:
        """Add to a step's metrics what was collected, how much is missing, and how many processes were lost."""
        trees = list(trees)
        recovery = recovery_by_task((tree.task_key, tree.plain_attempts) for tree in trees)
        unscored = {**self.agent_loop_manager.take_unscored(), "trees": 0}  # a task's missing attempt stays missing
        summed: dict[str, float] = {**total([*(tree.counts for tree in trees), unscored]), **total(recovery.values())}
        expected = self.config.data.train_batch_size * self.collected_per_task
        metrics["leafe/missing"] = max(expected - summed.get("trees", 0), 0)
        if self.collected_per_task > 1:
            summed |= count_tasks((tree.task_key, tree.counts) for tree in trees)
        metrics.update({f"leafe/{name}": value for name, value in summed.items()})
        metrics.update({f"leafe/{name}": value for name, value in ratios(summed).items()})
        faults = {**self.agent_loop_manager.faults, **self.agent_loop_manager.losses()}
        metrics.update({f"leafe/{name}": number for name, number in faults.items()})
        metrics["leafe/inference_server_deaths"] = self._servers.deaths

    def _load_checkpoint(self) -> None:
        repair_tracker(Path(self.config.trainer.default_local_dir))
        super()._load_checkpoint()

    def on_init_end(self) -> None:
        self._weights_step = self.global_steps
        self._servers.give_weights(super().on_init_end)

    def on_step_end(self) -> None:
        self.activity.begin("sending weights", step=self.global_steps)
        self._weights_step = self.global_steps
        if self._restart_dead_servers(now=True):
            self._servers.admit()
        self._servers.give_weights(super().on_step_end)

    def on_validate_begin(self) -> None:
        super().on_validate_begin()
        self._attach()
        self.agent_loop_manager.task_names.clear()
        self.activity.begin("validating", step=self.global_steps, total=len(self.val_dataset), unit="tasks")

    def on_sample_begin(self) -> None:
        super().on_sample_begin()
        self._attach()
        self.activity.begin("collecting", step=self.global_steps, total=self.config.data.train_batch_size, unit="tasks")

    def _attach(self) -> None:
        """Connect the replay buffer to the rollout workers, which exist only after verl has built this trainer."""
        self.replay_buffer.on_poll, self.replay_buffer.wait = self._watch, self.agent_loop_manager.wait_for_end
        self.replay_buffer.sampled = 0

    def on_sample_end(self) -> None:
        self._bring_back_dead_servers(now=True)  # verl's calls of a dead one would end the run
        self._abandon_requests()
        super().on_sample_end()

    def _abandon_requests(self) -> None:
        """Hook, called when a step has all that it waits for, before the servers sleep. None of them is dead then."""

    def _watch(self, partition_id: str, ended: int, unfinished: set[str]) -> None:
        """Replace workers and servers that have died. The replay buffer calls this while it waits for tasks."""
        self.activity.advance(self.replay_buffer.sampled + ended)
        self.agent_loop_manager.replace_dead(unfinished, partition_id)
        self._bring_back_dead_servers()

    def _bring_back_dead_servers(self, *, now: bool = False) -> None:
        """Restart dead servers, send them the present weights, and admit them."""
        if self._restart_dead_servers(now=now):
            self._servers.give_weights(lambda: self.checkpoint_manager.update_weights(self._weights_step))
            self._servers.admit()

    def _restart_dead_servers(self, *, now: bool) -> bool:
        """Start dead servers again, and return whether there were any. The next sync sends all weights."""
        restarted = self._servers.restart_dead(now=now)
        if restarted:
            self.actor_rollout_wg.forget_base_sync()
        return restarted

    @property
    def collected_per_task(self) -> int:
        """Number of tree records that a task gives: one for each attempt."""
        return int(self.config.actor_rollout_ref.rollout.n)

    @property
    def trainer_mode(self) -> str:
        """Always `sync`, because trainer_base.py treats any other name as an asynchronous trainer."""
        return "sync"

    @trainer_mode.setter
    def trainer_mode(self, configured: str) -> None:
        """Ignore the mode that the base class assigns. The configuration keeps it."""

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role, actor_class in self.role_worker_mapping.items():
            if issubclass(actor_class.__ray_metadata__.modified_class, ActorRolloutRefWorker):
                self.role_worker_mapping[role] = ray.remote(self.worker_cls)

    def _val_metrics_update(
        self,
        data_sources: list[str],
        sample_uids: list[str],
        reward_extra_infos_dict: dict[str, list[Any]],
        sample_turns: list[int],
        expected_acc_counts: dict[tuple[str, str], int] | None = None,
    ) -> dict[str, float]:
        """Add unbiased Pass@k to verl's metrics, because verl's best@N resamples with replacement, which is biased low.

        Attempts without an outcome are counted as `unscored`, not as failures. The figures of recovery are added, too.
        """
        metrics: dict[str, float] = super()._val_metrics_update(
            data_sources, sample_uids, reward_extra_infos_dict, sample_turns, expected_acc_counts=expected_acc_counts
        )
        scored: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
        for source, uid, acc in zip(data_sources, sample_uids, reward_extra_infos_dict.get("acc", []), strict=True):
            scored[source][uid].append(bool(acc))
        attempts = attempts_from_infos(reward_extra_infos_dict, len(sample_uids))
        recovery = recovery_by_task((uid, [each]) for uid, each in zip(sample_uids, attempts, strict=True) if each)
        self._keep_validation({uid: found for tasks in scored.values() for uid, found in tasks.items()}, recovery)
        metrics |= self._pass_at_k(scored, expected_acc_counts or {})
        return metrics | recovery_metrics(zip(data_sources, sample_uids, attempts, strict=True))

    def _keep_validation(self, outcomes: Outcomes, recovery: TaskCounts) -> None:
        """Keep what a validation found by task. verl gives each task a new uid in every validation."""
        names = self.agent_loop_manager.task_names
        found = Validation(
            {names[uid]: outcomes[uid] for uid in sorted(outcomes, key=names.__getitem__)},
            {names[uid]: recovery[uid] for uid in sorted(recovery, key=names.__getitem__)},
        )
        try:
            append_validation(Path(self.config.run_dir), self.global_steps, found)
        except OSError as error:
            logger.warning("the outcomes of this validation are not kept: %s", error)

    def _pass_at_k(
        self, scored: Mapping[str, dict[str, list[bool]]], expected_attempts: Mapping[tuple[str, str], int]
    ) -> dict[str, float]:
        """Return Pass@k and the number of unscored attempts of each data source.

        Args:
            scored: For each data source, the successes and failures of the scored attempts of each task.
            expected_attempts: Number of attempts that were asked for, by data source and task.
        """
        expected: dict[str, int] = defaultdict(int)
        for (source, _), number in expected_attempts.items():
            expected[source] += number
        wanted = self.config.actor_rollout_ref.rollout.val_kwargs.n
        metrics: dict[str, float] = {}
        for source, tasks in scored.items():
            ks = common_ks(tasks, wanted)
            metrics.update({f"val-core/{source}/pass@{k}": mean for k, mean in mean_pass_at_k(tasks, ks).items()})
            attempts = sum(map(len, tasks.values()))
            metrics[f"val-aux/{source}/unscored"] = max(expected[source] - attempts, 0)
        return metrics
