"""The trainer mode of `leafe-verl evaluate`, which plays the validation set once and trains nothing."""

from __future__ import annotations

from typing import Any

from verl.trainer.ppo.v1.trainer_base import register_trainer

from leafe_verl.plugin.training.base_trainer import BaseTrainer


@register_trainer("evaluate")
class EvaluationTrainer(BaseTrainer):
    """Plays the validation set once. Its agent loops write the attempts to the store of the evaluation."""

    def _val_metrics_update(
        self,
        data_sources: list[str],
        sample_uids: list[str],
        reward_extra_infos_dict: dict[str, list[Any]],
        sample_turns: list[int],
        expected_acc_counts: dict[tuple[str, str], int] | None = None,
    ) -> dict[str, float]:
        """Return only the number of attempts, since the store holds their outcomes.

        verl's own statistics would resample each task 1,000 times.
        """
        return {"evaluation/collected": len(sample_uids)}
