"""Paths of a tree as sequences of tokens, with a mask over those that are trained on."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leafe_verl.core.policy import History
from leafe_verl.core.shared_prefix import shared_prefix_length
from leafe_verl.core.tree import StepRecord

MAX_LEFT = 8
"""Most tokens that a chat template leaves of thoughts in front of an answer, as the closing tag."""


@dataclass(frozen=True)
class TokenSequence:
    """A path through a tree, or a part of one, as one sequence of tokens. All tuples have one entry for each token."""

    token_ids: tuple[int, ...]
    mask: tuple[int, ...]
    """1 for tokens that the loss is computed on: those of actions, end-of-turn tokens included. 0 for all others."""
    log_probs: tuple[float, ...]
    """Log-probabilities at sampling time where `mask` is 1 and the engine returned them; else 0.0. A revised action
    was sampled with the experience in the prompt, and a recovery target from another history, so that importance ratios
    must not be computed from them."""
    prompt_length: int
    """Number of tokens before the first one that is trained on."""

    def __post_init__(self) -> None:
        if not len(self.token_ids) == len(self.mask) == len(self.log_probs):
            raise ValueError(f"{len(self.token_ids)} tokens, {len(self.mask)} mask, {len(self.log_probs)} log-probs")
        if any(self.mask[: self.prompt_length]) or (self.mask and self.prompt_length < 1):
            raise ValueError("the prompt must hold at least one token and is never trained on")

    def with_masked_context(self, positions: Iterable[int], mask_id: int) -> TokenSequence:
        """Return the sequence with the token `mask_id` at some positions. Raises ValueError if one is trained on."""
        token_ids = list(self.token_ids)
        for position in positions:
            if self.mask[position]:
                raise ValueError(f"token {position} is trained on; only the context may be masked")
            token_ids[position] = mask_id
        return dataclasses.replace(self, token_ids=tuple(token_ids))


def build_sequence(
    steps: Sequence[StepRecord],
    first: int = 1,
    *,
    incomplete_actions: bool = True,
    added_tokens: bool = True,
    thoughts: bool = True,
) -> TokenSequence:
    """Return the path's tokens up to its last action; the actions of steps `first` and later are trained on.

    `added_tokens` says whether this includes end-of-turn tokens that nobody sampled (`Turn.num_added`), and `thoughts`
    whether it includes what the policy thought before an answer.
    Raises ValueError if a history does not continue the one before it, because a chat template rewrote earlier turns.
    """
    last = steps[-1]
    token_ids = last.history.token_ids + last.action.token_ids
    mask, log_probs = [0] * len(token_ids), [0.0] * len(token_ids)
    for step in steps[first - 1 :]:
        begin = len(step.history.token_ids)
        end = begin + len(step.action.token_ids)
        if token_ids[:end] != step.history.token_ids + step.action.token_ids:
            raise ValueError("a step's tokens are not a prefix of its path's: the chat template rewrote them")
        if step.action.complete or incomplete_actions:
            mask[begin:end] = step.action.mask(added_tokens=added_tokens, thoughts=thoughts)
            log_probs[begin:end] = step.action.log_probs or [0.0] * (end - begin)
    prompt_length = len(steps[first - 1].history.token_ids)
    return TokenSequence(token_ids, tuple(mask), tuple(log_probs), prompt_length)


def split_at_new_prompts(steps: Sequence[StepRecord]) -> list[range]:
    """Split a path so that within each part every history extends the one before it and its action, token for token.

    A new part begins where the context window moved, and behind an action whose thoughts the next history leaves out.
    Returns the indices in `steps` of each part.
    """
    begins = [place for place in range(1, len(steps)) if not _extends(steps[place].history, steps[place - 1])]
    return [range(*pair) for pair in itertools.pairwise([0, *begins, len(steps)])]


def _extends(history: History, before: StepRecord) -> bool:
    if history.previous is None or history.previous[0] is not before.history:
        return False
    if not before.action.num_thoughts:
        return True
    continued = before.history.token_ids + before.action.token_ids
    return history.token_ids[: len(continued)] == continued


def build_sequences(
    steps: Sequence[StepRecord],
    first: int = 1,
    *,
    incomplete_actions: bool = True,
    added_tokens: bool = True,
    thoughts: bool = True,
) -> list[tuple[int, TokenSequence]]:
    """Return the path as one sequence for each prompt that was built anew, trained on from step `first` on.

    Each comes with the first step that it trains on. No sequence contains a prompt that the policy did not see.
    """
    own = steps[first - 1 :]
    build = functools.partial(
        build_sequence, incomplete_actions=incomplete_actions, added_tokens=added_tokens, thoughts=thoughts
    )
    return [(first + run[0], build(own[run[0] : run[-1] + 1])) for run in split_at_new_prompts(own)]


def failed_positions(steps: Sequence[StepRecord]) -> list[int]:
    """Return where the history of the last of `steps` holds tokens of failed turns, without their end-of-turn tokens.

    Turns that a summary replaced, and those before them, have none. Of a turn whose thoughts the history leaves out,
    these are the tokens of its answer.
    """
    positions: list[int] = []
    history = steps[-1].history
    for step in reversed(steps[:-1]):
        if history.previous is None:
            break
        shown = history.token_ids
        history, turn = history.previous
        begin = shared_prefix_length(shown, history.token_ids)
        forms = (turn.token_ids, turn.answer_ids)
        places = [(place, form) for place in range(begin, begin + MAX_LEFT) for form in forms if form]
        found = ((place, form) for place, form in places if shown[place : place + len(form)] == form)
        begin, kept = next(found, (begin, ()))
        if step.failed:
            positions += range(begin, begin + max(len(kept) - turn.complete, 0))
    return positions
