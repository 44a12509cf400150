"""Brings given histories to the model that goes on from them: as rows of the data set, and in its own tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from leafe_verl.core.given import GivenHistory
from leafe_verl.evaluation.histories import DrawnHistory, read_histories
from leafe_verl.plugin.rollout.chat_format import ChatFormat
from leafe_verl.plugin.rollout.collected import find_fingerprint
from leafe_verl.plugin.rollout.dataset import task_row

HISTORY_FIELD = "history"
"""Field of a row's `extra_info` that holds the key of the history which its attempts go on from."""


def history_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Return a row in verl's format for each history in a folder, by the history's key."""
    rows = {}
    for index, drawn in enumerate(read_histories(folder)):
        row = task_row(drawn.history.task, index)
        row["extra_info"][HISTORY_FIELD] = drawn.history.key
        rows[drawn.history.key] = row
    return rows


def in_own_tokens(drawn: DrawnHistory, chat: ChatFormat) -> GivenHistory:
    """Return a history whose actions are tokens of this model: those that were sampled, or else those of their text.

    The sampled tokens are taken if they were stored with a tokenizer of the same fingerprint and decode to the stored
    text. Otherwise the text is tokenised and, if the turn was complete, closed as this model closes its own turns. What
    stands before, between and after the turns is this model's chat template either way.
    """
    tokenizer = chat.builder.tokenizer
    own = find_fingerprint(tokenizer)
    same = drawn.provenance.has_tokens and drawn.provenance.tokenizer == own
    steps = (
        step
        if same and chat.answer(step.action.token_ids) == step.action.text
        else replace(step, action=chat.given_turn(step.action.text, complete=step.action.complete))
        for step in drawn.history.steps
    )
    return replace(drawn.history, steps=tuple(steps))
