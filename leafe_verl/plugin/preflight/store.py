"""Refusing a store whose trees hold the tokens of another tokenizer, or are of another policy, before Ray starts."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from leafe_verl.checkpoints import resumed_step
from leafe_verl.plugin.preflight.chat import ask_configured
from leafe_verl.plugin.rollout.collected import describe_foreign, find_fingerprint
from leafe_verl.trees import read_summaries
from leafe_verl.trees.reader import CHOICE, read_standing


def store_problems(config: DictConfig, family: str | None) -> list[str]:
    """Return what is wrong with the run's store: what came, what was expected, and the setting."""
    return [*_tokenizer_problems(config, family), *_policy_problems(config)]


def _policy_problems(config: DictConfig) -> list[str]:
    """Return which models explored the steps of a run that goes on without a checkpoint, and so with its own model."""
    store, trainer = config.leafe.collection.store, config.trainer
    if not store or config.leafe.schedule.stages == "distil" or trainer.resume_mode != "auto":
        return []
    if resumed_step(Path(trainer.default_local_dir)) is not None:
        return []
    here, run = str(config.actor_rollout_ref.model.path), str(trainer.experiment_name)
    rows = (row for _, row in read_standing(store, (*CHOICE, "model")) if row["run"] == run)
    return [
        f"this run's trees in leafe.collection.store={store} were explored by the model {model}, and there is no "
        f"checkpoint to go on from; expected that model in MODEL (actor_rollout_ref.model.path), which is {here}, "
        "another RUN_DIR, or trainer.resume_mode=disable, which begins anew"
        for model in sorted({row["model"] for row in rows} - {None, here})
    ]


def _tokenizer_problems(config: DictConfig, family: str | None) -> list[str]:
    """Return which trees of the run's store have the tokens of another tokenizer than the run's.

    Trees that do not say are accepted, and so is every store while the run's tokenizer is not on this machine. Rollout
    workers compare again whatever they read. `family` is `leafe.generation.chat_family`.
    """
    store = config.leafe.collection.store
    rows = read_summaries(store, ("tokenizer", "model")) if store else ()
    stored = {row["tokenizer"]: row["model"] for _, row in rows}
    stored.pop(None, None)
    # Most runs begin with an empty store, for which no tokenizer need be loaded.
    chat = ask_configured(config, family) if stored else None
    if chat is None:
        return []
    here, what = find_fingerprint(chat.builder.tokenizer), f"a tree in leafe.collection.store={store}"
    return [describe_foreign(what, there, model, here) for there, model in stored.items() if there != here]
