"""Stage 1: attempt, reflect, roll back, branch; breadth first, under a budget.

roots ──► attempts ──► reflections (tau, e) ──► rollback to tau ──► attempts ──► ...
          one wave, all at once                  the next wave
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from leafe_verl.core.context import Note, history_after, window_moves
from leafe_verl.core.environment import (
    Environment,
    EnvironmentFailure,
    EnvironmentFlood,
    EnvironmentTimeout,
    ReplayDivergence,
    call_within,
)
from leafe_verl.core.policy import ContextOverflow, History, Policy, PolicyFailure, PolicyTimeout, annotate, asked_for
from leafe_verl.core.reflection import (
    Reflection,
    experience_note,
    fallback_reflection,
    parse_reflection,
    reflection_prompt,
    reflection_schema,
)
from leafe_verl.core.settings import Settings
from leafe_verl.core.task import Task
from leafe_verl.core.tree import Attempt, Branch, ExplorationTree, Outcome, StepRecord

logger = logging.getLogger(__name__)

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

        Attempts of one wave run concurrently; their order in the tree is that of the breadth-first queue,
        so the same seed and the same answers give the same tree. Failures are values in the tree.
        """
        tree = ExplorationTree(task)
        queue: list[Branch | None] = [None] * roots
        while not self.stop.is_set() and (wave := self._admit(tree, queue)):
            first = len(tree.attempts)
            for attempt in await _all(self.attempt(tree, branch, first + i) for i, branch in enumerate(wave)):
                tree.add(attempt)
            newest = range(len(tree.attempts) - len(wave), len(tree.attempts))
            queue = queue[len(wave) :]
            queue += await self._branches(tree, newest, waiting=len(queue))
        return tree

    async def attempt(self, tree: ExplorationTree, branch: Branch | None = None, number: int = 0) -> Attempt:
        """Run attempt `number` of a tree from the root or, rolled back, from a branch's step to its end."""
        asked_for.set(f"attempt {number}")
        run = _Run(self, tree, branch)
        try:
            await self._unless_stopped(run.play())
        except (EnvironmentFailure, PolicyFailure) as failure:
            return run.ended(_outcome_of(failure), failure)
        finally:
            await run.close()
        return run.ended(run.outcome)

    def horizon(self, environment: Environment) -> int:
        return self.settings.environment.horizon or environment.horizon

    def _admit(self, tree: ExplorationTree, queue: list[Branch | None]) -> list[Branch | None]:
        """Return the head of the queue that the budget allows. Steps are reserved at their worst case, the horizon;
        what an attempt leaves of its reserve goes to those that wait."""
        queue = queue[: self.settings.budget.attempts - len(tree.attempts)]
        left = self._steps_left(tree)
        if left is None or not queue:
            return queue
        horizon = self._expected_horizon()
        admitted: list[Branch | None] = []
        for branch in queue:
            left -= horizon - (branch.step - 1 if branch else 0)
            if left < 0:
                break
            admitted.append(branch)
        return admitted

    def _expected_horizon(self) -> int:
        if self.settings.environment.horizon:
            return self.settings.environment.horizon
        try:
            environment = self.make_environment()
        except Exception:  # the attempts will say so, and take no step
            return 0
        environment.close()
        return environment.horizon

    def _steps_left(self, tree: ExplorationTree) -> int | None:
        total = self.settings.budget.environment_steps
        return None if total is None else total - sum(len(attempt.steps) for attempt in tree.attempts)

    async def _branches(self, tree: ExplorationTree, newest: range, waiting: int) -> list[Branch | None]:
        """Reflect on the newest attempts and return the branches asked for, in breadth-first order."""
        settings = self.settings
        free = 0 if self._steps_left(tree) == 0 else settings.budget.attempts - len(tree.attempts) - waiting
        points = [(index, t) for index in newest for t in self._reflection_points(tree, index)]
        points = [point for point in points for _ in range(settings.reflection.samples)]
        points = points[: -(-max(free, 0) // settings.reflection.branches)]
        first = len(tree.reflections)
        reflections = await _all(self._reflect(tree, first + i, *point) for i, point in enumerate(points))
        requests: list[Branch | None] = []
        if self.stop.is_set():
            return requests
        for (index, _), reflection in zip(points, reflections, strict=True):
            tree.reflections.append((index, reflection))
            step = reflection.step if settings.reflection.rollback == "step" else 1
            branch = Branch(index, step, tree.attempts[index].depth + 1, reflection)
            requests += [branch] * settings.reflection.branches
        return requests

    def _reflection_points(self, tree: ExplorationTree, index: int) -> list[int]:
        """Steps t after which to reflect: every K of the attempt's own, and its last one upon failure."""
        attempt, interval = tree.attempts[index], self.settings.reflection.interval
        if attempt.depth >= self.settings.budget.depth or not attempt.outcome.scored:
            return []
        end = len(tree.path(index))
        own = range(end - len(attempt.steps) + 1, end + 1)
        points = {t for t in own if interval and t % interval == 0 and t < end}
        if attempt.outcome is not Outcome.SUCCESS:
            points.add(end)
        return sorted(points)

    async def _reflect(self, tree: ExplorationTree, number: int, index: int, t: int) -> Reflection:
        """Ask the policy for (tau, e) after step t; whatever goes wrong is answered by the fallback."""
        asked_for.set(f"reflection {number}")
        steps, limit = tree.path(index)[:t], self.settings.reflection.max_characters
        text, num_tokens, prompted = "", 0, None
        try:
            # What the policy would have seen at the next step: a summary names every turn before its window.
            note = Note(t + 1, reflection_prompt(t))
            looking_back = await history_after(self.policy, steps, self.settings.context, note=note)
            turn = await self._unless_stopped(self.policy.reflect(looking_back, reflection_schema(t, limit)))
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


class _Run:
    """One attempt while it is being played."""

    def __init__(self, explorer: Explorer, tree: ExplorationTree, branch: Branch | None) -> None:
        self.explorer, self.tree, self.branch = explorer, tree, branch
        self.environment: Environment | None = None
        self.steps: list[StepRecord] = []
        self.before = tree.path(branch.parent)[: branch.step - 1] if branch else ()
        self.replayed_steps = 0
        self.outcome = Outcome.HORIZON

    def ended(self, outcome: Outcome, failure: Exception | None = None) -> Attempt:
        error = str(failure) if failure else None
        return Attempt(self.branch, tuple(self.steps), outcome, error, self.replayed_steps)

    async def play(self) -> None:
        policy, settings = self.explorer.policy, self.explorer.settings
        environment: Environment = await self._call("make", self.explorer.make_environment)
        self.environment = environment
        environment.horizon = self.explorer.horizon(environment)
        step_scope = settings.reflection.scope == "step"
        history = await self._start(environment)
        prompt, note = history, None
        if self.branch and settings.reflection.experience:
            note = Note(self.branch.step, experience_note(self.branch.reflection.experience))
            prompt = await annotate(policy, history, note.text)
        first, last = self.branch.step if self.branch else 1, environment.horizon
        for t in range(first, last + 1):
            snapshot = await self._call("snapshot", environment.snapshot)
            action = await policy.act(prompt)
            step = await self._call("step", environment.step, action.text)
            self._check_length(step.observation)
            error, command = bool(step.info.get("error")), step.info.get("action")
            self.steps.append(StepRecord(history, action, step.observation, step.reward, error, snapshot, command))
            if step.terminated:
                self.outcome = Outcome.SUCCESS if step.info.get("success") else Outcome.FAILURE
            over = step.terminated or step.truncated or t == last
            if settings.distillation.method == "early_experience" and (over or window_moves(t, settings.context)):
                self.steps[-1] = await self._answered(self.steps[-1])
            if over:
                return
            # The history that is trained on never holds the experience; the prompt keeps it where it was put.
            same, path = prompt is history or step_scope, (*self.before, *self.steps)
            history = await history_after(policy, path, settings.context)
            if same:
                prompt = history
            else:
                prompt = await history_after(policy, path, settings.context, prompt=prompt, note=note)

    async def _answered(self, step: StepRecord) -> StepRecord:
        """Nothing that is played follows, so that a history too long to extend does not unscore the attempt."""
        try:
            answered = await self.explorer.policy.extend(step.history, step.action, step.observation)
        except PolicyFailure:
            return step
        return dataclasses.replace(step, answered=answered)

    async def _start(self, environment: Environment) -> History:
        """Reach E_1 and h_1, or E_tau and h_tau by rolling back."""
        task = self.tree.task
        if self.branch:
            point = self.tree.path(self.branch.parent)[self.branch.step - 1]
            self.replayed_steps = await self._call("restore", environment.restore, point.snapshot)
            return point.history
        observation, _ = await self._call("reset", environment.reset, task, self.explorer.settings.seed)
        self._check_length(observation)
        system = "\n\n".join(filter(None, (environment.system_prompt, self.explorer.playbook)))
        messages = [{"role": "system", "content": system}] if system else []
        return await self.explorer.policy.begin([*messages, {"role": "user", "content": observation}])

    def _check_length(self, observation: str) -> None:
        most = self.explorer.settings.environment.max_characters
        if len(observation) > most:
            raise EnvironmentFlood(
                f"{self.tree.task.environment}: an observation of {len(observation)} characters; "
                f"leafe.environment.max_characters allows {most}"
            )

    async def close(self) -> None:
        if self.environment is None:
            return
        # In a thread and without a slot: the environment may hang, and must not be waited for by other trees.
        try:
            await self._within_limit("close", self.environment.close)
        except EnvironmentFailure as failure:
            logger.warning("task %r: %s", self.tree.task.key, failure)

    async def _call(self, what: str, function, *arguments):  # type: ignore[no-untyped-def]
        async with self.explorer.environment_slots:  # waiting for a slot does not count against the limit
            return await self._within_limit(what, function, *arguments)

    async def _within_limit(self, what: str, function, *arguments):  # type: ignore[no-untyped-def]
        seconds = self.explorer.settings.environment.step_timeout
        return await call_within(seconds, f"{self.tree.task.environment}.{what}", function, *arguments)
