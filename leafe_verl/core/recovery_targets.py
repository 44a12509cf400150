"""Recovery targets, beyond the paper: actions that succeed after a failed turn, confirmed by the environment.

    task  a_1, failed  feedback  a*       a* is the last action of a successful attempt at the same task

L_cf teaches at h_tau, before the mistake. These teach after it: an action that succeeded elsewhere in the tree is
executed in the state that the failed turn left, and is a target there if that ends in success. The history is one that
the policy reached without advice, so that its mistakes are the policy's own. sft_examples.py builds the examples.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from leafe_verl.core.attempt import RollbackPoint
from leafe_verl.core.concurrency import gather_or_cancel
from leafe_verl.core.policy import Turn
from leafe_verl.core.settings import Settings
from leafe_verl.core.text import seeded_random
from leafe_verl.core.tree import Attempt, ExplorationTree, Outcome, RecoveryTarget

Execute = Callable[[RollbackPoint, str, Turn], Coroutine[Any, Any, Attempt]]
"""Rolls an environment back, executes one action there, and returns that as an attempt. The text names the request."""
Place = tuple[int, int]
"""An attempt, and a step t of it whose history ends with the feedback to a failed turn."""
Pair = tuple[Place, int]
"""A place, and the attempt whose last action is to be executed there."""

MAX_EXECUTIONS = 2
"""Maximum number of executed actions for each target that is wanted."""


async def confirm_recovery_targets(
    tree: ExplorationTree, settings: Settings, execute: Execute, stop: asyncio.Event
) -> list[RecoveryTarget]:
    """Execute actions that succeeded after turns that failed, until as many are confirmed as the settings want.

    As many run concurrently as are still missing, so that the answers of the environment alone decide what is drawn.
    Fewer are executed where the budget of environment steps is used up, and none once `stop` is set.
    """
    pairs = draw_pairs(tree, settings)
    wanted, left = settings.distillation.max_recovery_targets, _max_executions(tree, settings)
    recoveries: list[RecoveryTarget] = []
    while not stop.is_set() and (drawn := list(itertools.islice(pairs, max(min(wanted, left), 0)))):
        found = await gather_or_cancel(_confirm(tree, pair, execute) for pair in drawn)
        recoveries += found
        wanted, left = wanted - sum(recovery.confirmed for recovery in found), left - len(found)
    return recoveries


def draw_pairs(tree: ExplorationTree, settings: Settings) -> Iterator[Pair]:
    """Yield every place with every action but the one that failed there, in an order that uses both evenly."""
    draw = seeded_random(f"recovery {settings.seed}:{tree.task.key}")
    places = distinct_failures(tree)
    sources = distinct_successes(tree, incomplete=settings.distillation.incomplete_actions)
    draw.shuffle(places)
    draw.shuffle(sources)
    # Both go round. Once they are back where they began, the actions move on by one, so that no pair comes twice.
    begun = math.lcm(len(places), len(sources))
    for number in range(len(places) * len(sources)):
        attempt, step = places[number % len(places)]
        source = sources[(number + number // begun) % len(sources)]
        if tree.path(source)[-1].executed != tree.path(attempt)[step - 2].executed:
            yield (attempt, step), source


def distinct_failures(tree: ExplorationTree) -> list[Place]:
    """Return the places after a failed turn of a root. Of those that the same programs lead to, the first one counts.

    Branches have none of their own: they share their parent's before the rollback point, and advice led to the others.
    """
    places: dict[tuple[str, ...], Place] = {}
    for index, attempt in enumerate(tree.attempts):
        if attempt.branch is None and attempt.outcome.scored:
            for step, before in enumerate(attempt.steps[:-1], start=2):
                if before.failed:
                    places.setdefault(tuple(each.executed for each in attempt.steps[: step - 1]), (index, step))
    return [*places.values()]


def distinct_successes(tree: ExplorationTree, *, incomplete: bool) -> list[int]:
    """Return the successful attempts whose last actions are distinct programs. Of equal ones, the first one counts.

    `incomplete` says whether an action that the token limit cut is one of them.
    """
    sources: dict[str, int] = {}
    for index, attempt in enumerate(tree.attempts):
        if attempt.outcome is Outcome.SUCCESS and (attempt.steps[-1].action.complete or incomplete):
            sources.setdefault(attempt.steps[-1].executed, index)
    return [*sources.values()]


def _max_executions(tree: ExplorationTree, settings: Settings) -> int:
    most, budget = MAX_EXECUTIONS * settings.distillation.max_recovery_targets, settings.budget.environment_steps
    return most if budget is None else min(most, budget - tree.environment_steps)


async def _confirm(tree: ExplorationTree, pair: Pair, execute: Execute) -> RecoveryTarget:
    (attempt, step), source = pair
    point = RollbackPoint(tree.path(attempt), step, experience=None)
    done = await execute(point, f"recovery {attempt}.{step}.{source}", tree.path(source)[-1].action)
    return RecoveryTarget(attempt, step, source, done.outcome, done.replayed_steps)
