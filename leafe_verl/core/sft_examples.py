"""Stage 2's data: what a tree teaches, as SFT examples from which every experience has been removed.

`build_examples` is the one place where attempts become training data, for LEAFE and for Early Experience.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from leafe_verl.core.policy import History
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.core.tree import ExplorationTree, Outcome, StepRecord


class Kind(str, Enum):
    """Which loss an example belongs to."""

    COUNTERFACTUAL = "counterfactual"
    """L_cf: the revised action, given the history before it."""
    REHEARSAL = "rehearsal"
    """L_reh: every action of a successful attempt."""
    WORLD_MODEL = "world_model"
    """Early Experience's first stage: every observation, given the history and the action before it."""


PHASES = {"world_model": (Kind.WORLD_MODEL,), "actor": (Kind.COUNTERFACTUAL, Kind.REHEARSAL)}
"""Kinds that are trained on together, in the order of training. LEAFE has the second phase alone; Early Experience's
SFT on successes follows the first."""


@dataclass(frozen=True)
class TokenSequence:
    """A path through a tree as one token sequence."""

    token_ids: tuple[int, ...]
    mask: tuple[int, ...]
    """1 where the loss is computed: on sampled tokens, their end-of-turn token included; 0 elsewhere."""
    log_probs: tuple[float, ...]
    """As sampled, where mask is 1 and the engine gave them; 0.0 elsewhere. A branched action was sampled with the
    experience in the prompt, so these are no denominators for importance ratios."""
    prompt_length: int
    """Tokens before the first trained one."""

    def __post_init__(self) -> None:
        if not len(self.token_ids) == len(self.mask) == len(self.log_probs):
            raise ValueError(f"{len(self.token_ids)} tokens, {len(self.mask)} mask, {len(self.log_probs)} log-probs")
        if any(self.mask[: self.prompt_length]) or (self.mask and self.prompt_length < 1):
            raise ValueError("the prompt must hold at least one token and is never trained on")


@dataclass(frozen=True)
class Example:
    """One SFT example."""

    kind: Kind
    sequence: TokenSequence
    attempt: int
    """Index of the attempt in its tree."""
    step: int
    """First trained step, counted from 1 along the attempt's path."""


def sequence_of(steps: Sequence[StepRecord], first: int = 1, *, incomplete_actions: bool = True) -> TokenSequence:
    """Return the path's tokens up to its last action, trained on the actions of steps `first` and later.

    Raises ValueError when a history does not continue the one before it, as a chat template that rewrites
    earlier turns would cause.
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
            mask[begin:end] = [1] * (end - begin)
            log_probs[begin:end] = step.action.log_probs or [0.0] * (end - begin)
    prompt_length = len(steps[first - 1].history.token_ids)
    return TokenSequence(token_ids, tuple(mask), tuple(log_probs), prompt_length)


def runs_of(steps: Sequence[StepRecord]) -> list[range]:
    """Split a path where the window of context.py moved on: within a run, each history goes on from the one before.

    Returns each run's places in `steps`; one run where prompts hold the whole history.
    """
    begins = [0]
    for place in range(1, len(steps)):
        previous = steps[place].history.previous
        if previous is None or previous[0] is not steps[place - 1].history:
            begins.append(place)
    return [range(*pair) for pair in itertools.pairwise([*begins, len(steps)])]


def sequences_of(
    steps: Sequence[StepRecord], first: int = 1, *, incomplete_actions: bool = True
) -> list[tuple[int, TokenSequence]]:
    """Return what the policy saw and did from step `first` on, one sequence for each run, with its first trained step.

    No sequence holds a prompt that the policy did not see.
    """
    own = steps[first - 1 :]
    return [
        (first + run[0], sequence_of(own[run[0] : run[-1] + 1], incomplete_actions=incomplete_actions))
        for run in runs_of(own)
    ]


def build_examples(tree: ExplorationTree, settings: DistillationSettings, seed: int) -> list[Example]:
    """Return the tree's examples, drawn with a generator seeded by `seed` and the task's key."""
    # As bytes: of a text, Random encodes UTF-8, which has no room for half an emoji.
    draw = random.Random(f"{seed}:{tree.task.key}".encode("utf-8", "surrogatepass"))
    if settings.method == "early_experience":
        found = [*_world_model(tree), *_rehearsal(tree, settings, draw)]
    else:
        found = [*_counterfactual(tree, settings, draw), *_rehearsal(tree, settings, draw)]
    return [example for example in found if any(example.sequence.mask)]


def _counterfactual(tree: ExplorationTree, settings: DistillationSettings, draw: random.Random) -> list[Example]:
    """-log pi(a'_tau | h_tau, q): the branch's first action, or its whole suffix, without the experience."""
    events = [index for index, _ in tree.branches() if _distilled(tree, index, settings)]
    if len(events) > settings.events_per_task:
        events = sorted(draw.sample(events, settings.events_per_task))
    examples = []
    for index in events:
        branch = tree.attempts[index].branch
        assert branch is not None
        path = tree.path(index)
        end = len(path) if settings.target == "suffix" else branch.step
        found = sequences_of(path[:end], branch.step, incomplete_actions=settings.incomplete_actions)
        examples += [Example(Kind.COUNTERFACTUAL, sequence, index, step) for step, sequence in found]
    return examples


def _distilled(tree: ExplorationTree, index: int, settings: DistillationSettings) -> bool:
    attempt = tree.attempts[index]
    targets = attempt.steps if settings.target == "suffix" else attempt.steps[:1]
    if not attempt.outcome.scored or not any(s.action.complete or settings.incomplete_actions for s in targets):
        return False
    if settings.events == "success":
        return attempt.outcome is Outcome.SUCCESS
    return settings.events == "every" or tree.improved(index)


def _rehearsal(tree: ExplorationTree, settings: DistillationSettings, draw: random.Random) -> list[Example]:
    """-log pi(a_t | h_t, q) over all actions of a random share of the successful attempts, branched ones too."""
    examples = []
    for index, attempt in enumerate(tree.attempts):
        if attempt.outcome is Outcome.SUCCESS and draw.random() < settings.rehearsal_share:
            found = sequences_of(tree.path(index), incomplete_actions=settings.incomplete_actions)
            examples += [Example(Kind.REHEARSAL, sequence, index, step) for step, sequence in found]
    return examples


def _world_model(tree: ExplorationTree) -> list[Example]:
    """-log pi(o_{t+1} | h_t, a_t) over all observations of every attempt (implicit world modelling, arXiv 2510.08558).

    An observation's tokens are all that the chat template puts between two actions.
    """
    examples = []
    for index, attempt in enumerate(tree.attempts):
        path = tree.path(index)
        for run in runs_of(path) if attempt.outcome.scored and path else []:
            steps = path[run[0] : run[-1] + 1]
            histories = [step.history for step in steps[1:]]
            histories += [answered] if (answered := steps[-1].answered) else []
            if histories:
                examples.append(Example(Kind.WORLD_MODEL, _observations(steps, histories), index, run[0] + 1))
    return examples


def _observations(path: Sequence[StepRecord], histories: Sequence[History]) -> TokenSequence:
    """The tokens of the last of `histories`, trained on where they follow an action of `path`."""
    token_ids = histories[-1].token_ids
    mask = [0] * len(token_ids)
    for step, following in zip(path, histories, strict=False):
        begin, end = len(step.history.token_ids) + len(step.action.token_ids), len(following.token_ids)
        if token_ids[:end] != following.token_ids:
            raise ValueError("a step's tokens are not a prefix of its path's: the chat template rewrote them")
        mask[begin:end] = [1] * (end - begin)
    first = len(path[0].history.token_ids) + len(path[0].action.token_ids)
    return TokenSequence(token_ids, tuple(mask), (0.0,) * len(token_ids), first)
