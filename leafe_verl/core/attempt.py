"""One attempt: reset or roll back, then act and observe until the end."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from leafe_verl.core.context import Note, history_after, window_moves
from leafe_verl.core.environment import Environment, EnvironmentFailure, EnvironmentFlood, call_within
from leafe_verl.core.policy import History, Policy, PolicyFailure, annotate
from leafe_verl.core.reflection import experience_note
from leafe_verl.core.settings import Settings
from leafe_verl.core.task import Task
from leafe_verl.core.tree import Attempt, Outcome, StepRecord

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RollbackPoint:
    """Where an attempt leaves another one, and what it is told there."""

    path: tuple[StepRecord, ...]
    """All steps from the task's start to the end of the attempt that it leaves."""
    step: int
    """tau, counted from 1 along the path."""
    experience: str | None
    """None: nothing."""


@dataclass
class Run:
    """One attempt while it is being played: `play`, which may raise, then `ended` and `close`."""

    task: Task
    make_environment: Callable[[], Environment]
    policy: Policy
    settings: Settings
    environment_slots: asyncio.Semaphore
    request: str
    """Name under which its actions are sampled; see `Policy`."""
    playbook: str = ""
    rollback: RollbackPoint | None = None
    """None: played from the root."""
    environment: Environment | None = field(default=None, init=False)
    steps: list[StepRecord] = field(default_factory=list, init=False)
    replayed_steps: int = field(default=0, init=False)
    outcome: Outcome = field(default=Outcome.HORIZON, init=False)

    def ended(self, outcome: Outcome, failure: Exception | None = None) -> Attempt:
        """Return the attempt, of no branch: where it stands in its tree, growth.py knows."""
        return Attempt(None, tuple(self.steps), outcome, str(failure) if failure else None, self.replayed_steps)

    async def play(self) -> None:
        policy, settings, rollback = self.policy, self.settings, self.rollback
        environment: Environment = await self._call("make", self.make_environment)
        self.environment = environment
        environment.horizon = settings.environment.horizon or environment.horizon
        history = await self._start(environment)
        prompt, note = history, None
        if rollback and rollback.experience is not None:
            note = Note(rollback.step, experience_note(rollback.experience))
            prompt = await annotate(policy, history, note.text)
        before = rollback.path[: rollback.step - 1] if rollback else ()
        first, last = len(before) + 1, environment.horizon
        for t in range(first, last + 1):
            snapshot = await self._call("snapshot", environment.snapshot)
            action = await policy.act(prompt, self.request)
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
            same, path = prompt is history or settings.reflection.scope == "step", (*before, *self.steps)
            history = await history_after(policy, path, settings.context)
            if same:
                prompt = history
            else:
                prompt = await history_after(policy, path, settings.context, prompt=prompt, note=note)

    async def _answered(self, step: StepRecord) -> StepRecord:
        """Nothing that is played follows, so that a history too long to extend does not unscore the attempt."""
        try:
            answered = await self.policy.extend(step.history, step.action, step.observation)
        except PolicyFailure:
            return step
        return dataclasses.replace(step, answered=answered)

    async def _start(self, environment: Environment) -> History:
        """SegmentLayout E_1 and h_1, or E_tau and h_tau by rolling back."""
        if self.rollback:
            point = self.rollback.path[self.rollback.step - 1]
            self.replayed_steps = await self._call("restore", environment.restore, point.snapshot)
            return point.history
        observation, _ = await self._call("reset", environment.reset, self.task, self.settings.seed)
        self._check_length(observation)
        system = "\n\n".join(filter(None, (environment.system_prompt, self.playbook)))
        messages = [{"role": "system", "content": system}] if system else []
        return await self.policy.begin([*messages, {"role": "user", "content": observation}])

    def _check_length(self, observation: str) -> None:
        most = self.settings.environment.max_characters
        if len(observation) > most:
            raise EnvironmentFlood(
                f"{self.task.environment}: an observation of {len(observation)} characters; "
                f"leafe.environment.max_characters allows {most}"
            )

    async def close(self) -> None:
        if self.environment is None:
            return
        # In a thread and without a slot: the environment may hang, and must not be waited for by other trees.
        try:
            await self._within_limit("close", self.environment.close)
        except EnvironmentFailure as failure:
            logger.warning("task %r: %s", self.task.key, failure)

    async def _call(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        async with self.environment_slots:  # waiting for a slot does not count against the limit
            return await self._within_limit(what, function, *arguments)

    async def _within_limit(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        seconds = self.settings.environment.step_timeout
        return await call_within(seconds, f"{self.task.environment}.{what}", function, *arguments)
