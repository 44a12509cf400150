"""The hooks of verl's trainer that save by time, validate at intervals and keep the best checkpoint."""

from __future__ import annotations

import functools
import logging
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.debug import marked_timer

from leafe_verl.activity import ActivityFile
from leafe_verl.plugin.settings import CheckpointSettings
from leafe_verl.plugin.training.checkpointing import BestCheckpoint, Cadence, CheckpointFolder, validation_interval

logger = logging.getLogger(__name__)


def read_settings(config: DictConfig) -> CheckpointSettings:
    """Return the settings `leafe.checkpoints.*`, with the defaults of what the configuration leaves out."""
    given = OmegaConf.select(config, "leafe.checkpoints")
    return CheckpointSettings.model_validate(OmegaConf.to_container(given, resolve=True) if given else {})


class CheckpointingTrainer(PPOTrainerSync):  # type: ignore[misc]  # verl is Any to mypy
    """verl's synchronous trainer, which sizes saving and validation by the run and names its best checkpoint.

    `trainer.save_freq` and `trainer.test_freq` are verl's own where a number is given; null means sized by the run.
    """

    trains_weights: bool = True
    """False: the weights stay as they are, so that null saves nothing and validates after the last step only."""
    total_training_steps: int

    @functools.cached_property
    def activity(self) -> ActivityFile:
        """Says in RUN_DIR what the run is doing."""
        return ActivityFile(Path(self.config.run_dir))

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        self._end_with_the_epochs(self.config)
        self._plan_checkpoints(self.config.trainer)

    def _end_with_the_epochs(self, config: DictConfig) -> None:
        """Count no steps beyond trainer.total_epochs, which end verl's loop without a last save and validation."""
        planned, held = int(self.total_training_steps), self.steps_per_epoch * config.trainer.total_epochs
        if not 0 < held < planned:
            return
        logger.warning(
            "trainer.total_epochs=%s of %s steps each ends this run after step %s, not trainer.total_training_steps=%s",
            config.trainer.total_epochs,
            self.steps_per_epoch,
            held,
            planned,
        )
        self.total_training_steps = held
        if OmegaConf.select(config, "actor_rollout_ref.actor.optim"):
            with open_dict(config):
                config.actor_rollout_ref.actor.optim.total_training_steps = held

    def _plan_checkpoints(self, trainer: DictConfig) -> None:
        """Replace null by numbers, now that the number of steps is known, and take over verl's rotation."""
        settings, total = read_settings(self.config), max(self.total_training_steps, 1)
        if trainer.get("remove_previous_ckpt_in_save"):  # verl's former name of keeping one
            trainer.remove_previous_ckpt_in_save = False
            trainer.max_actor_ckpt_to_keep = trainer.get("max_actor_ckpt_to_keep") or 1
        limit = trainer.get("max_actor_ckpt_to_keep")
        self._keep = limit or settings.keep
        # What the user asks for every N steps stays, as in verl, unless the user limits the number too.
        self._protect_every = None if limit else trainer.save_freq
        # verl would remove the best checkpoint as well.
        trainer.max_actor_ckpt_to_keep = None
        if trainer.test_freq is None:
            trainer.test_freq = validation_interval(total, settings.validations) if self.trains_weights else total
        if trainer.save_freq is None:
            trainer.save_freq = total if self.trains_weights else -1
        self._best_metric = settings.metric if trainer.save_freq > 0 and not trainer.get("val_only") else None
        self._cadence = Cadence.from_settings(settings, save_freq=trainer.save_freq, test_freq=trainer.test_freq)
        self._checkpoints = CheckpointFolder(Path(trainer.default_local_dir))
        self._saved_step: int | None = None

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self._best_metric is not None:
            self._checkpoints.forget_best_after(self.global_steps)

    def on_train_begin(self) -> None:
        super().on_train_begin()
        self._saved_at = time.monotonic()

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> KVBatchMeta:
        """Save where verl does: after the update, while the inference servers sleep."""
        batch = super().step(metrics, timing_raw)
        if self._cadence.should_save(self.global_steps, time.monotonic(), self._saved_at):
            with marked_timer("save_checkpoint", timing_raw, color="green"):
                self._save_checkpoint()
        return batch

    def _save_checkpoint(self) -> None:
        """Save once in a step: `step` and verl's loop may both ask for it."""
        if self._saved_step == self.global_steps:
            return
        self.activity.begin("saving", step=self.global_steps)
        super()._save_checkpoint()
        self._saved_step, self._saved_at = self.global_steps, time.monotonic()
        self._prune()

    def _validate(self) -> dict[str, float]:
        metrics: dict[str, float] = super()._validate()
        if self._best_metric is not None and self._checkpoints.is_whole(self.global_steps):
            self._consider_best(metrics, self._best_metric)
        return metrics

    def _consider_best(self, metrics: dict[str, float], metric: str) -> None:
        """Name the present checkpoint the best one if it validated better than all before."""
        candidate = BestCheckpoint.from_metrics(metrics, metric, self.global_steps)
        if candidate is None:
            logger.warning(
                "no finite validation metric matches leafe.checkpoints.metric=%s, so no best checkpoint is named; "
                "expected one of: %s",
                metric,
                ", ".join(sorted(metrics)),
            )
        elif candidate.improves_on(self._checkpoints.read_best()):
            self._checkpoints.write_best(candidate)
            self._prune()

    def _prune(self) -> None:
        if self._keep is not None:
            self._checkpoints.prune(self._keep, self._protect_every)
