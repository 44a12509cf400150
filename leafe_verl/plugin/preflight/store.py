"""Refusing a store whose trees hold the tokens of another tokenizer, before Ray starts."""

from __future__ import annotations

from omegaconf import DictConfig

from leafe_verl.plugin.preflight.chat import ask_configured
from leafe_verl.plugin.rollout.collected import describe_foreign, find_fingerprint
from leafe_verl.trees import read_summaries


def store_problems(config: DictConfig, family: str | None) -> list[str]:
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
