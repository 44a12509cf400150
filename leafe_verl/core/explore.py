"""Stage 1 of LEAFE: attempt a task, reflect, roll back and branch, breadth first and within a budget.

root attempt ─► reflection (tau, e) ─► roll back to step tau ─► branch, told e ─► reflection ─► ...
root attempt ─► ...

Beyond the paper, recovery targets are confirmed once the tree has grown; see recovery_targets.py.

`Explorer._grow` and `Explorer._reflect_and_branch` are the algorithm. Whatever the budget is certain to hold runs
concurrently, which growth.py decides.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from leafe_verl.core.attempt import AttemptRun, RollbackPoint
from leafe_verl.core.concurrency import gather_or_cancel, unless_stopped
from leafe_verl.core.context import PromptNote, history_after
from leafe_verl.core.environment import Environment, EnvironmentFailure
from leafe_verl.core.environment_calls import CallThread, call_within, close_within
from leafe_verl.core.given import GivenHistory
from leafe_verl.core.growth import Growth, Node
from leafe_verl.core.policy import Policy, PolicyFailure, Turn
from leafe_verl.core.recovery_targets import confirm_recovery_targets
from leafe_verl.core.reflection import (
    Reflection,
    fallback_reflection,
    parse_reflection,
    reflection_prompt,
    reflection_schema,
)
from leafe_verl.core.settings import Settings
from leafe_verl.core.task import Task
from leafe_verl.core.tree import Attempt, ExplorationTree, Outcome, StepRecord


@dataclass(frozen=True)
class Explorer:
    """Grows an exploration tree, or confirms the recovery targets of stored ones. It is cheap to make."""

    make_environment: Callable[[], Environment]
    policy: Policy
    settings: Settings
    environment_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    """Limits the number of concurrent environment calls of all trees that share it."""
    playbook: str = ""
    """Advice that is part of every system prompt; see playbook.py. Empty for none."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Once set, nothing new begins, running attempts end unscored, and the tree is returned as it is."""

    async def explore(self, task: Task, roots: int = 1) -> ExplorationTree:
        """Grow the exploration tree of `task` from `roots` independent attempts.

        Attempts are listed in breadth-first order, so that the same seed and the same answers give the same tree.
        Failures of the environment or the policy are outcomes of attempts and are not raised.
        """
        horizon = await self._horizon(task)
        growth = Growth(self.settings.exploration_budget, roots, self._max_branches, horizon)
        await gather_or_cancel(self._grow(task, growth, root) for root in growth.roots)
        tree = growth.build_tree(task)
        await self.confirm_recovery_targets(tree)
        return tree

    async def _grow(self, task: Task, growth: Growth, node: Node) -> None:
        """Attempt the task, reflect on the attempt, and branch off where each reflection says."""
        if not await growth.may_begin(node) or self.stop.is_set():
            return growth.drop(node)
        upon_repetition = self.settings.reflection.upon_repetition
        attempt = await self.attempt(task, self._rollback_point(node), node.name, ends_upon_repetition=upon_repetition)
        times = self._reflection_times(node, attempt)
        per_reflection = self.settings.reflection.branches
        branches = await growth.add_branches(node, attempt, wanted=len(times) * per_reflection)
        groups = [branches[first : first + per_reflection] for first in range(0, len(branches), per_reflection)]
        # The budget may hold the branches of fewer reflections than there are times to reflect.
        await gather_or_cancel(
            self._reflect_and_branch(task, growth, node, number, t, group)
            for number, (t, group) in enumerate(zip(times, groups, strict=False))
        )

    async def _reflect_and_branch(
        self, task: Task, growth: Growth, node: Node, number: int, t: int, branches: Sequence[Node]
    ) -> None:
        """Reflect on the first t steps of a node's path, and grow branches from the step that the reflection names."""
        reflection = None if self.stop.is_set() else await self._reflect(node, number, t)
        if reflection and not self.stop.is_set():
            node.reflections[number] = reflection
            for branch in branches:
                branch.reflection = reflection
                branch.step = self._rollback_step(reflection, node.path[:t])
        # Without a reflection exploring has been stopped, and _grow drops the branches.
        await gather_or_cancel(self._grow(task, growth, branch) for branch in branches)

    async def confirm_recovery_targets(self, tree: ExplorationTree) -> None:
        """Execute recovery targets of a grown tree, and add to it what came of them; see recovery_targets.py."""
        if self.settings.distillation.max_recovery_targets and not self.stop.is_set():
            execute = functools.partial(self.attempt, tree.task)
            tree.recovery_targets = await confirm_recovery_targets(tree, self.settings, execute, self.stop)

    async def attempt(
        self,
        task: Task,
        rollback: RollbackPoint | None = None,
        name: str = "0",
        action: Turn | None = None,
        given: GivenHistory | None = None,
        ends_upon_repetition: bool = False,
    ) -> Attempt:
        """Play one attempt, from the root or from a rollback point, to its end.

        `name` is unique within its tree. `action` is the only one, and executed instead of what the policy would do. A
        root goes on from a given history, if there is one, instead of the task's start. `ends_upon_repetition` says
        whether it ends once a turn repeats a failed one, which exploring alone asks for.
        """
        attempt = AttemptRun(
            task=task,
            make_environment=self.make_environment,
            policy=self.policy,
            settings=self.settings,
            environment_slots=self.environment_slots,
            stop=self.stop,
            request=f"attempt {name}",
            playbook=self.playbook,
            rollback=rollback,
            action=action,
            given=given,
            ends_upon_repetition=ends_upon_repetition,
        )
        return await attempt.play()

    async def _reflect(self, node: Node, number: int, t: int) -> Reflection:
        """Ask the policy for (tau, e) after step t. If that fails, use the fallback."""
        steps, limit = node.path[:t], self.settings.reflection.max_characters
        try:
            turn = await self._ask_to_reflect(steps, f"reflection {node.name}/{number}")
        except PolicyFailure as failure:
            turn = Turn(f"[{failure}]", ())
        answer = parse_reflection(turn.text, t, limit) if turn.token_ids else None
        tau, experience = answer or fallback_reflection(steps, limit)
        parsed = answer is not None
        return Reflection(tau, experience, parsed, turn.text, turn.num_sampled, num_steps=t, prompted=turn.prompted)

    async def _ask_to_reflect(self, steps: Sequence[StepRecord], request: str) -> Turn:
        # The policy sees what it would have seen at the next step; a summary names every step before its window.
        t, settings = len(steps), self.settings
        note = PromptNote(t + 1, reflection_prompt(t))
        sampled_from = steps[-1].prompt if settings.reflection.reads == "prompt" else None
        prompt = await history_after(self.policy, steps, settings.context, prompt=sampled_from, note=note)
        schema = reflection_schema(t, settings.reflection.max_characters)
        return await unless_stopped(self.stop, self.policy.reflect(prompt, schema, request))

    def _reflection_times(self, node: Node, attempt: Attempt) -> list[int]:
        """Return the steps t after which to reflect: every K of the attempt's own, and its last one upon failure.

        Each stands there as often as there are samples of its reflection.
        """
        reflection = self.settings.reflection
        solved = attempt.outcome is Outcome.SUCCESS
        if node.depth >= self.settings.budget.depth or not attempt.outcome.scored:
            return []
        if solved and not reflection.successes:
            return []
        begin = len(node.prefix)
        end = begin + len(attempt.steps)
        times = {t for t in range(begin + 1, end) if reflection.interval and t % reflection.interval == 0}
        if not solved:
            times.add(end)
        return [t for t in sorted(times) for _ in range(reflection.samples)]

    def _rollback_step(self, reflection: Reflection, steps: Sequence[StepRecord]) -> int:
        """Return the step that a branch begins with, after a reflection on `steps`."""
        if self.settings.reflection.rollback == "start":
            return 1
        if self.settings.reflection.rollback == "first_failed":
            return next((t for t, step in enumerate(steps, start=1) if step.failed), reflection.step)
        return reflection.step

    def _rollback_point(self, node: Node) -> RollbackPoint | None:
        if node.parent is None or node.reflection is None:
            return None
        experience = node.reflection.experience if self.settings.reflection.experience else None
        return RollbackPoint(node.parent.path, node.step, experience)

    @property
    def _max_branches(self) -> float:
        """Maximum number of branches of one attempt. With reflections every K steps, it is unknown in advance."""
        reflection = self.settings.reflection
        return math.inf if reflection.interval else reflection.samples * reflection.branches

    async def _horizon(self, task: Task) -> int:
        """Return the maximum number of steps from the root. Only a budget of environment steps asks for it."""
        settings = self.settings.environment
        if settings.horizon or self.settings.exploration_budget.environment_steps is None:
            return settings.horizon or 0
        thread = CallThread()
        try:
            async with self.environment_slots:
                made = f"{task.environment}.make"
                environment = await call_within(settings.step_timeout, made, self.make_environment, thread=thread)
            await close_within(settings.step_timeout, task.environment, environment, thread)
        except EnvironmentFailure:  # every attempt will fail with it, and take no step
            return 0
        finally:
            thread.end()
        return environment.horizon
