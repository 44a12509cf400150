"""Stage 2's data: the SFT examples of an exploration tree, without any experience in their prompts.

`build_examples` is the only place where attempts become training data, for LEAFE and for Early Experience.

A counterfactual example, for a branch that leaves its parent at step 2 with the revised action a'_2:

    tokens   o_1  a_1  o_2  a'_2
    mask      0    0    0    1

A recovery example, for an action a* that succeeded elsewhere in the tree and was confirmed after the failed turn a_1:

    tokens   o_1  a_1  o_2  a*
    mask      0    0    0    1
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from leafe_verl.core.policy import History
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.core.text import seeded_random
from leafe_verl.core.token_sequences import (
    TokenSequence,
    build_sequence,
    build_sequences,
    failed_positions,
    split_at_new_prompts,
)
from leafe_verl.core.tree import ExplorationTree, Outcome, StepRecord


class Kind(StrEnum):
    """The loss that an example belongs to."""

    COUNTERFACTUAL = "counterfactual"
    """L_cf: trains on the revised action, given the history before it."""
    REHEARSAL = "rehearsal"
    """L_reh: trains on every action of a successful attempt."""
    RECOVERY = "recovery"
    """Beyond the paper: trains on an action that succeeded elsewhere in the tree, after a failed turn."""
    HOLD = "hold"
    """Beyond the paper: trains on what the policy did up to its first failed turn, so that it stays as it was."""
    WORLD_MODEL = "world_model"
    """Early Experience's first stage: trains on every observation, given the history and the action before it."""
    PREFERENCE = "preference"
    """DPO, a control: prefers the revised action to the failed one, given the history before both."""


PHASES = {
    "world_model": (Kind.WORLD_MODEL,),
    "actor": (Kind.COUNTERFACTUAL, Kind.REHEARSAL, Kind.RECOVERY, Kind.HOLD, Kind.PREFERENCE),
}
"""Kinds that are trained on together, in the order of training. LEAFE has the second phase only. Early Experience has
both: world modelling, then SFT on the successful attempts."""


@dataclass(frozen=True)
class Teacher:
    """How the policy sampled an action, perhaps from another prompt than its example has."""

    prompt: tuple[int, ...]
    """Token ids of that prompt, such as h_tau with the experience e."""
    tokens: int
    """Number of first trained tokens of the example that were sampled. An end-of-turn token that was added is none of
    them, since the policy may not have ended its turn there."""
    share: float = 1.0
    """Share of the divergence in the loss of these tokens; -log pi has the rest."""


@dataclass(frozen=True)
class Example:
    """One SFT example, and where it comes from."""

    kind: Kind
    sequence: TokenSequence
    attempt: int
    """Index of the attempt in its tree."""
    step: int
    """First step that is trained on, counted from 1 along the attempt's path."""
    source: int | None = None
    """Index of the attempt whose last action is trained on at that step, for a recovery target. None: the attempt's own
    actions are trained on."""
    rejected: bool = False
    """Whether DPO trains the policy away from it. The chosen example of its pair is the one before it."""
    teacher: Teacher | None = None
    """The teacher of a loss that is `kl`; see teacher.py. None: the loss is -log pi."""


def build_examples(
    tree: ExplorationTree, settings: DistillationSettings, seed: int, mask_id: int | None = None
) -> list[Example]:
    """Return the examples of a tree. What is drawn at random is seeded by `seed`, the task's key and its first actions.

    The control of rehearsal gets every attempt that may be rehearsed; the trainer draws from those of all trees, so
    that its volume is matched over the step (matched_volume.py). `mask_id` is the token that `settings.context_mask`
    puts into histories; None leaves the histories as they were.
    """
    draw = _seeded(tree, f"{seed}")
    if settings.method == "early_experience":
        found = [*_world_model(tree), *_rehearsal(tree, settings, draw)]
    elif settings.control == "rehearsal":
        found = _rehearsal(tree, settings.model_copy(update={"rehearsal_share": 1.0}), draw)
    else:
        revised = _preference if settings.loss == "dpo" else _counterfactual
        found = [*revised(tree, settings, draw), *_rehearsal(tree, settings, draw)]
        found += _recovery(tree, settings, _seeded(tree, f"mask {seed}"), mask_id)
        found += _hold(tree, settings, _seeded(tree, f"hold {seed}"))
    return [example for example in found if any(example.sequence.mask)]


def _seeded(tree: ExplorationTree, seed: str) -> random.Random:
    """Return a generator that is the same whenever this tree is read, and another one for another tree of the task."""
    firsts = [attempt.steps[0].action.text for attempt in tree.attempts if attempt.branch is None and attempt.steps]
    return seeded_random("\n".join([f"{seed}:{tree.task.key}", *firsts]))


def _trained(settings: DistillationSettings) -> dict[str, bool]:
    """Return which tokens of actions are trained on, as arguments of `build_sequence`."""
    return {"incomplete_actions": settings.incomplete_actions, "thoughts": settings.thoughts}


def _counterfactual(tree: ExplorationTree, settings: DistillationSettings, draw: random.Random) -> list[Example]:
    """L_cf, -log pi(a'_tau | h_tau, q), for a branch's first action or for all its actions, without the experience."""
    examples = []
    for index in _draw_events(tree, settings, draw):
        branch = tree.attempts[index].branch
        assert branch is not None
        path = tree.path(index)
        end = len(path) if settings.target == "suffix" else branch.step
        found = build_sequences(path[:end], branch.step, **_trained(settings))
        examples += [Example(Kind.COUNTERFACTUAL, sequence, index, step) for step, sequence in found]
    return examples


def _draw_events(tree: ExplorationTree, settings: DistillationSettings, draw: random.Random) -> list[int]:
    """Return the indices of the branches that are distilled, at most `events_per_task` of them."""
    events = [index for index, _ in tree.branches() if _distilled(tree, index, settings)]
    if len(events) > settings.events_per_task:
        events = sorted(draw.sample(events, settings.events_per_task))
    return events


def _preference(tree: ExplorationTree, settings: DistillationSettings, draw: random.Random) -> list[Example]:
    """DPO on (h_tau, a_tau, a'_tau): pairs of a chosen and a rejected example, for the events that L_cf would draw.

    An event gives no pair where the two actions are the same, where the failed one was cut or led to a success all the
    same, where nothing of one of them is trained on, or where their histories differ, since a window of the context
    moved.
    """
    examples = []
    for index in _draw_events(tree, settings, draw):
        branch = tree.attempts[index].branch
        assert branch is not None
        revised, failed = (tree.path(each)[: branch.step] for each in (index, branch.parent))
        same_history = revised[-1].history.token_ids == failed[-1].history.token_ids
        same_action = revised[-1].action.token_ids == failed[-1].action.token_ids
        complete = failed[-1].action.complete or settings.incomplete_actions
        lost = tree.attempts[branch.parent].outcome is not Outcome.SUCCESS
        pair = [build_sequence(path[-1:], **_trained(settings)) for path in (revised, failed)]
        if lost and same_history and complete and not same_action and all(any(each.mask) for each in pair):
            for sequence, attempt, rejected in zip(pair, (index, branch.parent), (False, True), strict=True):
                examples.append(Example(Kind.PREFERENCE, sequence, attempt, branch.step, rejected=rejected))
    return examples


def _distilled(tree: ExplorationTree, index: int, settings: DistillationSettings) -> bool:
    attempt = tree.attempts[index]
    targets = attempt.steps if settings.target == "suffix" else attempt.steps[:1]
    if not attempt.outcome.scored or not any(s.action.complete or settings.incomplete_actions for s in targets):
        return False
    if settings.counterfactual_histories == "failed" and not _follows_a_failure(tree, index):
        return False
    if settings.events == "success":
        return attempt.outcome is Outcome.SUCCESS
    return settings.events == "every" or tree.improved(index)


def _follows_a_failure(tree: ExplorationTree, index: int) -> bool:
    """Return whether the history that a branch begins with holds a failed turn."""
    branch = tree.attempts[index].branch
    return branch is not None and any(step.failed for step in tree.path(index)[: branch.step - 1])


def _rehearsal(tree: ExplorationTree, settings: DistillationSettings, draw: random.Random) -> list[Example]:
    """L_reh, -log pi(a_t | h_t, q), for all actions of a random share of the successful attempts, branches included.

    With `settings.rehearsal` of `at_once`, of the roots among them that have no failed turn.
    """
    examples = []
    for index, attempt in enumerate(tree.attempts):
        at_once = attempt.branch is None and not any(step.failed for step in attempt.steps)
        rehearsed = attempt.outcome is Outcome.SUCCESS and (at_once or settings.rehearsal == "attempts")
        if rehearsed and draw.random() < settings.rehearsal_share:
            found = build_sequences(tree.path(index), **_trained(settings))
            examples += [Example(Kind.REHEARSAL, sequence, index, step) for step, sequence in found]
    return examples


def _recovery(
    tree: ExplorationTree, settings: DistillationSettings, draw: random.Random, mask_id: int | None
) -> list[Example]:
    """-log pi(a* | h_t, q) for confirmed recovery targets: h_t ends with a failed turn, a* succeeded there."""
    examples = []
    for recovery in [each for each in tree.recovery_targets or () if each.confirmed][: settings.recovery_targets]:
        steps, action = tree.path(recovery.attempt)[: recovery.step], tree.path(recovery.source)[-1].action
        if action.complete or settings.incomplete_actions:
            sequence = build_sequence([dataclasses.replace(steps[-1], action=action)], thoughts=settings.thoughts)
            if mask_id is not None:
                positions = failed_positions(steps)
                masked = draw.sample(positions, round(settings.context_mask * len(positions)))
                sequence = sequence.with_masked_context(masked, mask_id)
            examples.append(Example(Kind.RECOVERY, sequence, recovery.attempt, recovery.step, recovery.source))
    return examples


def _hold(tree: ExplorationTree, settings: DistillationSettings, draw: random.Random) -> list[Example]:
    """Return the actions of a random share of the scored roots, up to the first failed turn. The loss is -log pi, or
    with `hold_loss=kl` the divergence from the policy before the training step.

    Nothing is left out for what it led to, nor for being cut: the mean over all samples of a policy estimates the
    cross-entropy, and so the KL divergence, between that policy and the one that is trained. A token that was added is
    none of the policy's, so that a teacher is not asked about it.
    """
    examples = []
    for index, attempt in enumerate(tree.attempts):
        is_scored_root = attempt.branch is None and attempt.outcome.scored and bool(attempt.steps)
        if is_scored_root and draw.random() < settings.hold_share:
            last = next((t for t, step in enumerate(attempt.steps, start=1) if step.failed), len(attempt.steps))
            added = settings.hold_loss == "nll"
            found = build_sequences(attempt.steps[:last], added_tokens=added, thoughts=settings.thoughts)
            examples += [Example(Kind.HOLD, sequence, index, step) for step, sequence in found]
    return examples


def _world_model(tree: ExplorationTree) -> list[Example]:
    """-log pi(o_{t+1} | h_t, a_t) for all observations of every attempt (implicit world modelling, arXiv 2510.08558).

    The tokens of an observation are all tokens that the chat template puts between two actions.
    """
    examples = []
    for index, attempt in enumerate(tree.attempts):
        path = tree.path(index)
        for part in split_at_new_prompts(path) if attempt.outcome.scored and path else []:
            steps = path[part[0] : part[-1] + 1]
            histories = [step.history for step in steps[1:]]
            histories += [answered] if (answered := steps[-1].answered) else []
            if histories:
                examples.append(Example(Kind.WORLD_MODEL, _observations(steps, histories), index, part[0] + 1))
    return examples


def _observations(path: Sequence[StepRecord], histories: Sequence[History]) -> TokenSequence:
    """Return the tokens of the last of `histories`; those after each action of `path` are trained on."""
    token_ids = histories[-1].token_ids
    mask = [0] * len(token_ids)
    for step, following in zip(path, histories, strict=False):
        begin, end = len(step.history.token_ids) + len(step.action.token_ids), len(following.token_ids)
        if token_ids[:end] != following.token_ids:
            raise ValueError("a step's tokens are not a prefix of its path's: the chat template rewrote them")
        mask[begin:end] = [1] * (end - begin)
    first = len(path[0].history.token_ids) + len(path[0].action.token_ids)
    return TokenSequence(token_ids, tuple(mask), (0.0,) * len(token_ids), first)
