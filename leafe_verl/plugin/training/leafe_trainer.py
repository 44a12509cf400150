"""The trainer mode `leafe`, which collects exploration trees and distils their examples by SFT."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig
from torchdata.stateful_dataloader import StatefulDataLoader
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.utils.metric import reduce_metrics
from verl.utils.py_functional import rename_dict

from leafe_verl.plugin.rollout.dataset import read_task
from leafe_verl.plugin.rollout.explore_loops import STORED, find_mask_token
from leafe_verl.plugin.settings import RunSettings
from leafe_verl.plugin.training.advantage_free_trainer import AdvantageFreeTrainer
from leafe_verl.plugin.training.base_trainer import TRAINED_TOKENS, UPDATES
from leafe_verl.plugin.training.curriculum import Curriculum, CurriculumSampler, with_sampler
from leafe_verl.plugin.training.matched_volume import match_volume
from leafe_verl.plugin.training.phases import Phase, PhaseBuilder, prepare_update
from leafe_verl.plugin.training.records import join_batches, split_records
from leafe_verl.plugin.training.sft_worker import SFTWorker
from leafe_verl.plugin.training.tracking import track
from leafe_verl.plugin.wire import REPLACED_EXAMPLES, REPLACED_TOKENS, TREES_UNKEPT, ExampleRecord, TreeRecord
from leafe_verl.task_files import KEEP, read_tasks
from leafe_verl.trees.telling import most_telling

logger = logging.getLogger(__name__)


@register_trainer("leafe")
class LeafeTrainer(AdvantageFreeTrainer):
    """In each step, collects exploration trees, distils their examples by SFT, syncs the weights and validates."""

    worker_cls = SFTWorker
    collected_per_task = 1  # one tree for each task
    train_dataloader: StatefulDataLoader
    _pass_tasks: int | None = None
    """Number of tasks in the pass that the curriculum has drawn. None without one, and until this process draws."""

    def __init__(self, config: DictConfig) -> None:
        self._stages = config.leafe.schedule.stages
        self.trains_weights = self._stages != "explore"
        if self._stages == "distil":
            # This is verl's flag for running without inference servers; see `_setup` in trainer_base.py.
            self._enable_hybrid_replicas = False
            config.actor_rollout_ref.rollout.nnodes = 1  # llm_server.py reads it even if no server is started
            config.actor_rollout_ref.rollout.agent.default_agent_loop = STORED
            config.trainer.val_before_train, config.trainer.test_freq = False, -1
        super().__init__(config)

    def _init_dataloader(self) -> None:
        config = self.config
        if config.leafe.distillation.context_mask:
            find_mask_token(self.tokenizer)  # a tokenizer without one is refused before anything is collected
        if config.leafe.schedule.collect == "all":
            sources = [config.data.train_files] if isinstance(config.data.train_files, str) else config.data.train_files
            chosen = (config.data.environment, config.data.get("several_answers", KEEP))
            tasks = sum(len(read_tasks(source, *chosen)) for source in sources)
            most = config.data.get("train_max_samples", -1)
            config.data.train_batch_size = min(tasks, most) if most > 0 else tasks
            config.trainer.total_training_steps = 1
        super()._init_dataloader()
        if config.leafe.curriculum.floor is not None:
            self._follow_curriculum()

    def _follow_curriculum(self) -> None:
        """Draw each pass over the tasks by what the store knows when it begins."""
        leafe, dataset = self.config.leafe, self.train_dataset
        curriculum = Curriculum(
            floor=leafe.curriculum.floor,
            trees=leafe.curriculum.trees,
            store=leafe.collection.store,
            run=str(self.config.trainer.experiment_name),
            keys=[read_task(extra_info).key for extra_info in dataset.dataframe["extra_info"]],
            batch=self.config.data.train_batch_size,
            seed=leafe.seed,
        )

        def draw() -> list[int]:
            drawn = curriculum.draw(self.global_steps)
            self._pass_tasks = len(drawn)
            return drawn

        self.train_dataloader = with_sampler(self.train_dataloader, CurriculumSampler(len(dataset), draw))

    def on_init_end(self) -> None:
        if self.trains_weights and RunSettings.from_config(self.config).distillation.kl_losses:
            self.actor_rollout_wg.require_teachers()  # before anything is explored
        if self._stages != "distil":
            super().on_init_end()

    def on_step_end(self) -> None:
        if self._stages != "distil":
            super().on_step_end()

    def on_sample_begin(self) -> None:
        self._interrupted = False
        super().on_sample_begin()

    def _abandon_requests(self) -> None:
        """Give up the requests of trees that were cut short, which the servers would go on with."""
        if self._interrupted:
            self.checkpoint_manager.abort_replicas()
            self.checkpoint_manager.resume_generation_replicas()

    def _watch(self, partition_id: str, ended: int, unfinished: set[str]) -> None:
        """Also stop exploring once `leafe.collection.share` of the step's tasks have ended."""
        super()._watch(partition_id, ended, unfinished)
        enough = math.ceil(self.config.leafe.collection.share * self.config.data.train_batch_size)
        if partition_id == "train" and ended >= enough and unfinished and not self._interrupted:
            self._interrupted = True
            self.agent_loop_manager.stop_exploring(self.global_steps)

    def _save_checkpoint(self) -> None:
        """Save nothing if only stage 1 runs, because it changes no weights. Its result is the store of trees."""
        if self._stages != "explore":
            super()._save_checkpoint()

    def _balance_batch(
        self,
        batch: KVBatchMeta,
        metrics: dict[str, Any],
        logging_prefix: str = "global_seqlen",
        keep_minibatch: bool = False,
    ) -> KVBatchMeta:
        """Drop the summaries of trees and lay out the examples. verl trains on the batch that is returned."""
        trees, examples = split_records(batch)
        self._log_counts(trees, metrics)
        if self._pass_tasks is not None:
            metrics["leafe/pass_tasks"] = self._pass_tasks
        self._track_branches(trees)
        self._refuse_unkept_trees(metrics)
        self._phases: list[Phase] = []
        """The phases that `_update_actor`, which verl calls next, distils."""
        if self._stages == "explore":
            return batch
        builder, rows, mini_batches = self._phase_builder(), batch, None
        if self.config.leafe.distillation.control:
            mini_batches = builder.mini_batches(metrics.get(f"leafe/{REPLACED_EXAMPLES}", 0))
            rows, examples = self._match_volume(batch, examples, metrics, mini_batches)
        if not self._has_examples(examples, len(trees)):
            return batch
        self._drop_unused(batch, examples)
        self._phases = builder.build(rows, examples, mini_batches)
        metrics.update({f"{phase.name}/rank_imbalance": phase.imbalance for phase in self._phases})
        return join_batches([phase.batch for phase in self._phases])

    def _track_branches(self, trees: Iterable[TreeRecord]) -> None:
        """Log the most telling branches before the step's metrics, because W&B closes a step when the next begins."""
        branches = [tree.branch for tree in trees if tree.branch]
        track(self.logger.logger, most_telling(branches, self.config.leafe.tracking.branches), self.global_steps)

    def _refuse_unkept_trees(self, metrics: dict[str, Any]) -> None:
        if metrics[f"leafe/{TREES_UNKEPT}"] and not metrics.get("leafe/trees"):
            raise RuntimeError(
                f"none of {metrics[f'leafe/{TREES_UNKEPT}']} trees could be written to leafe.collection.store="
                f"{self.config.leafe.collection.store}; the log of the rollout workers says why. Once that is fixed, "
                "run the same command again to resume from here"
            )

    def _has_examples(self, examples: Mapping[str, ExampleRecord], trees: int) -> bool:
        if not examples:
            logger.warning("step %d: %d trees gave no SFT example, so nothing is distilled", self.global_steps, trees)
        return bool(examples)

    def _match_volume(
        self, batch: KVBatchMeta, examples: Mapping[str, ExampleRecord], metrics: Mapping[str, Any], updates: int
    ) -> tuple[KVBatchMeta, dict[str, ExampleRecord]]:
        """Take each example of the control as often as LEAFE's volume on the same trees asks for."""
        seed = f"{self.config.leafe.seed}:{self.global_steps}"
        tokens = metrics.get(f"leafe/{REPLACED_TOKENS}", 0)
        return match_volume(batch, examples, tokens=tokens, updates=updates, seed=seed)

    def _drop_unused(self, batch: KVBatchMeta, examples: Mapping[str, ExampleRecord]) -> None:
        """Remove rows that are not trained on from TransferQueue: summaries of trees, and what was not drawn."""
        tq.kv_clear(keys=[key for key in batch.keys if key not in examples], partition_id=batch.partition_id)

    def _phase_builder(self) -> PhaseBuilder:
        ranks = max(self.actor_rollout_wg._query_dispatch_info("actor")) + 1  # trainer_base.py counts them in this way
        return PhaseBuilder(self.config, ranks, self.global_steps, self.tokenizer.eos_token_id)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Distil the phases that `_balance_batch` laid out. A step without examples leaves the policy as it is."""
        metrics[TRAINED_TOKENS] = sum(phase.tokens * phase.epochs for phase in self._phases)
        metrics[UPDATES] = sum(phase.updates for phase in self._phases)
        for phase in self._phases:
            self._distil(phase, metrics)
        return batch

    def _distil(self, phase: Phase, metrics: dict[str, Any]) -> None:
        counts = {kind: metrics.get(f"leafe/examples/{kind}", 0) for kind in phase.weights}
        detail = f"{' and '.join(f'{number:,.0f} {kind}' for kind, number in counts.items() if number)} examples"
        self.activity.begin("distilling", step=self.global_steps, total=phase.updates, unit="updates", detail=detail)
        prepare_update(phase, self._phases, self.config)
        output = self.actor_rollout_wg.update_actor(phase.batch)
        metrics.update(reduce_metrics(rename_dict(output["metrics"], f"{phase.name}/")))
