"""Stage 1: attempt, reflect, roll back, branch; breadth first, under a budget.

root ──► attempt ──► reflection (tau, e) ──► rollback to tau ──► attempt ──► reflection ...
root ──► attempt ...           all at once, as far as growth.py is sure of the budget
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from leafe_verl.core.attempt import RollbackPoint, Run
from leafe_verl.core.context import Note, history_after
from leafe_verl.core.environment import (
    Environment,
    EnvironmentFailure,
    EnvironmentFlood,
    EnvironmentTimeout,
    ReplayDivergence,
)
from leafe_verl.core.growth import Growth, Node
from leafe_verl.core.policy import ContextOverflow, Policy, PolicyFailure, PolicyTimeout
from leafe_verl.core.reflection import (
    Reflection,
    fallback_reflection,
    parse_reflection,
    reflection_prompt,
    reflection_schema,
)
from leafe_verl.core.settings import Settings
from leafe_verl.core.task import Task
from leafe_verl.core.tree import Attempt, ExplorationTree, Outcome

T = TypeVar("T")


class Interrupted(PolicyFailure):
    """What was under way when exploring had to stop."""


OUTCOMES: dict[type[Exception], Outcome] = {
    EnvironmentTimeout: Outcome.ENVIRONMENT_TIMEOUT,
    EnvironmentFlood: Outcome.ENVIRONMENT_FLOOD,
    ReplayDivergence: Outcome.REPLAY_DIVERGENCE,
    EnvironmentFailure: Outcome.ENVIRONMENT_FAILURE,
    Interrupted: Outcome.INTERRUPTED,
    ContextOverflow: Outcome.CONTEXT_OVERFLOW,
    PolicyTimeout: Outcome.POLICY_TIMEOUT,
    PolicyFailure: Outcome.POLICY_FAILURE,
}
"""How an attempt that broke has ended; the first that fits."""


@dataclass(frozen=True)
class Explorer:
    """What exploring needs beside the task; one for each tree, cheap to make."""

    make_environment: Callable[[], Environment]
    policy: Policy
    settings: Settings
    environment_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    """Bounds the environment calls at once, over all trees that share it."""

    playbook: str = ""
    """Advice for all tasks, kept in every system prompt; see playbook.py."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Once set, nothing new is begun and attempts under way end unscored: the tree is returned as it is."""

    async def explore(self, task: Task, roots: int = 1) -> ExplorationTree:
        """Grow the exploration tree of `task` from `roots` independent attempts.

        Whatever the budget is sure to hold is under way at once; attempts stand in the tree in breadth-first order, so
        the same seed and the same answers give the same tree. Failures are values in the tree.
        """
        growth = Growth(self.settings.budget, roots, self._most_wanted, functools.cache(self._horizon))
        await _all(self._grow(task, growth, root) for root in growth.roots)
        return growth.tree(task)

    async def attempt(self, task: Task, rollback: RollbackPoint | None = None, name: str = "0") -> Attempt:
        """Run one attempt from the root or from a rollback point to its end.

        `name` tells it from the others of its tree.
        """
        run = Run(
            task,
            self.make_environment,
            self.policy,
            self.settings,
            self.environment_slots,
            f"attempt {name}",
            self.playbook,
            rollback,
        )
        try:
            await self._unless_stopped(run.play())
        except (EnvironmentFailure, PolicyFailure) as failure:
            return run.ended(_outcome_of(failure), failure)
        finally:
            await run.close()
        return run.ended(run.outcome)

    async def _grow(self, task: Task, growth: Growth, node: Node) -> None:
        """Play an attempt, then look back at it and branch off, as far as the budget goes."""
        if not await growth.admits(node) or self.stop.is_set():
            return growth.refuse(node)
        attempt = await self.attempt(task, self._rollback_point(node), node.name)
        points, each = self._reflection_points(node, attempt), self.settings.reflection.branches
        branches = await growth.branches(node, attempt, len(points) * each)
        shares = (branches[first : first + each] for first in range(0, len(branches), each))
        # The budget may hold fewer reflections than there are points.
        asked = enumerate(zip(points, shares, strict=False))
        await _all(self._branch_off(task, growth, node, number, t, share) for number, (t, share) in asked)

    async def _branch_off(
        self, task: Task, growth: Growth, node: Node, number: int, t: int, branches: Sequence[Node]
    ) -> None:
        """Reflect on a node's path up to step t, and grow the branches that follow from it."""
        reflection = None if self.stop.is_set() else await self._reflect(node, number, t)
        if reflection and not self.stop.is_set():
            node.reflections[number] = reflection
            for branch in branches:
                branch.reflection = reflection
                branch.step = reflection.step if self.settings.reflection.rollback == "step" else 1
        await _all(self._grow(task, growth, branch) for branch in branches)

    def _rollback_point(self, node: Node) -> RollbackPoint | None:
        if node.parent is None or node.reflection is None:
            return None
        experience = node.reflection.experience if self.settings.reflection.experience else None
        return RollbackPoint(node.parent.path, node.step, experience)

    @property
    def _most_wanted(self) -> float:
        """Branches that one attempt may lead to. Reflecting every K steps, it depends on how many those are."""
        reflection = self.settings.reflection
        return math.inf if reflection.interval else reflection.samples * reflection.branches

    def _horizon(self) -> int:
        """Steps of an attempt from the root, for a budget that counts them."""
        if self.settings.environment.horizon:
            return self.settings.environment.horizon
        try:
            environment = self.make_environment()
        except Exception:  # the attempts will say so, and take no step
            return 0
        environment.close()
        return environment.horizon

    def _reflection_points(self, node: Node, attempt: Attempt) -> list[int]:
        """Steps t after which to reflect: every K of the attempt's own, and its last one upon failure."""
        reflection = self.settings.reflection
        if node.depth >= self.settings.budget.depth or not attempt.outcome.scored:
            return []
        begun = len(node.before)
        end = begun + len(attempt.steps)
        points = {t for t in range(begun + 1, end) if reflection.interval and t % reflection.interval == 0}
        if attempt.outcome is not Outcome.SUCCESS:
            points.add(end)
        return [point for point in sorted(points) for _ in range(reflection.samples)]

    async def _reflect(self, node: Node, number: int, t: int) -> Reflection:
        """Ask the policy for (tau, e) after step t; whatever goes wrong is answered by the fallback."""
        steps, limit = node.path[:t], self.settings.reflection.max_characters
        text, num_tokens, prompted = "", 0, None
        try:
            # What the policy would have seen at the next step: a summary names every turn before its window.
            note = Note(t + 1, reflection_prompt(t))
            looking_back = await history_after(self.policy, steps, self.settings.context, note=note)
            asked = self.policy.reflect(looking_back, reflection_schema(t, limit), f"reflection {node.name}/{number}")
            turn = await self._unless_stopped(asked)
            text, num_tokens, prompted = turn.text, len(turn.token_ids), turn.prompted
        except PolicyFailure as failure:
            text = f"[{failure}]"
        answer = parse_reflection(text, t, limit) if num_tokens else None
        tau, experience = answer or fallback_reflection(steps, limit)
        return Reflection(tau, experience, answer is not None, text, num_tokens, num_steps=t, prompted=prompted)

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`; raise Interrupted, and cancel it, when `stop` is set first."""
        working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(self.stop.wait())
        try:
            await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
        finally:
            stopped.cancel()
            working.cancel()
        raise Interrupted("the training step ended first; leafe.collection.share sets when")


def _outcome_of(failure: Exception) -> Outcome:
    return next(outcome for kind, outcome in OUTCOMES.items() if isinstance(failure, kind))


async def _all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all of them at once. When one raises, which only a bug does, the others are cancelled and waited for."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
