"""One attempt: start at the root or at a rollback point, then act and observe until the end.

A branch has two token sequences. The prompt that its actions are sampled from contains the experience, after the
observation of the step that it returns to; the history that is recorded and trained on does not.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from leafe_verl.core.concurrency import Interrupted, unless_stopped
from leafe_verl.core.context import PromptNote, history_after, window_moves
from leafe_verl.core.environment import (
    Environment,
    EnvironmentFailure,
    EnvironmentFlood,
    EnvironmentTimeout,
    ReplayDivergence,
    has_failed,
    read_reset,
    read_step,
)
from leafe_verl.core.environment_calls import CallThread, call_within, close_within
from leafe_verl.core.given import GivenHistory
from leafe_verl.core.policy import ContextOverflow, History, Policy, PolicyFailure, PolicyTimeout, Turn, annotate
from leafe_verl.core.reflection import experience_note
from leafe_verl.core.rollback import roll_back
from leafe_verl.core.settings import Settings
from leafe_verl.core.task import Task
from leafe_verl.core.text import without_surrogates
from leafe_verl.core.tree import Attempt, Outcome, StepRecord, repeats_failure

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
"""Outcome of an attempt that ended in an exception. The first class that the exception is an instance of counts."""


@dataclass(frozen=True)
class RollbackPoint:
    """The place where a branch leaves the attempt that was reflected on."""

    path: tuple[StepRecord, ...]
    """All steps from the task's start to the end of the attempt that the branch leaves."""
    step: int
    """tau, counted from 1 along the path. The branch replaces this step."""
    experience: str | None
    """e, added to the prompt of that step. None: nothing is added."""


@dataclass
class AttemptRun:
    """An attempt while it is being played."""

    task: Task
    make_environment: Callable[[], Environment]
    policy: Policy
    settings: Settings
    environment_slots: asyncio.Semaphore
    """Limits the number of concurrent environment calls."""
    stop: asyncio.Event
    """Once set, the attempt ends unscored."""
    request: str
    """Name under which its actions are sampled; see `Policy`."""
    playbook: str = ""
    """Advice for the system prompt; empty for none."""
    rollback: RollbackPoint | None = None
    """None: the attempt starts at the root."""
    action: Turn | None = None
    """The only action, executed instead of a sampled one. None: actions are sampled until the attempt ends."""
    given: GivenHistory | None = None
    """Steps of an earlier attempt that the root goes on from. None: it begins at the task's start."""
    ends_upon_repetition: bool = False
    """Whether the attempt ends once a turn repeats an earlier failed turn of its path and fails again."""
    environment: Environment | None = field(default=None, init=False)
    _thread: CallThread = field(default_factory=CallThread, init=False)
    steps: list[StepRecord] = field(default_factory=list, init=False)
    """Steps that this attempt has executed itself."""
    given_steps: tuple[StepRecord, ...] = field(default=(), init=False)
    """The given steps with the histories that this policy sees."""
    replayed_steps: int = field(default=0, init=False)
    unplayed_steps: int = field(default=0, init=False)
    outcome: Outcome = field(default=Outcome.HORIZON, init=False)

    @property
    def prefix(self) -> tuple[StepRecord, ...]:
        """Steps before the attempt's own: the parent's up to the rollback point, or the given ones."""
        return self.rollback.path[: self.rollback.step - 1] if self.rollback else self.given_steps

    async def play(self) -> Attempt:
        """Play the attempt and return it, without its place in the tree. `Outcome` says what a failure makes of it."""
        try:
            await unless_stopped(self.stop, self._play_to_the_end())
        except (EnvironmentFailure, PolicyFailure) as failure:
            outcome = self._outcome_of(failure)
            return Attempt(None, tuple(self.steps), outcome, error=str(failure), replayed_steps=self.replayed_steps)
        finally:
            await self._close()
        return Attempt(
            None,
            tuple(self.steps),
            self.outcome,
            replayed_steps=self.replayed_steps,
            unplayed_steps=self.unplayed_steps,
        )

    def _outcome_of(self, failure: Exception) -> Outcome:
        if isinstance(failure, ContextOverflow) and self.steps:
            return Outcome.HORIZON
        return next(outcome for kind, outcome in OUTCOMES.items() if isinstance(failure, kind))

    async def _play_to_the_end(self) -> None:
        environment: Environment = await self._call("make", self.make_environment)
        self.environment = environment
        await self._call("horizon", self._set_horizon, environment)
        history = await self._start(environment)
        prompt, note = history, None
        if self.rollback and self.rollback.experience is not None:
            note = PromptNote(self.rollback.step, experience_note(self.rollback.experience))
            prompt = await annotate(self.policy, history, note.text)
        first = len(self.prefix) + 1
        last = first if self.action else environment.horizon
        for t in range(first, last + 1):
            self.unplayed_steps = last - t
            is_over = await self._take_step(environment, history, prompt) or t == last
            if not is_over and self.ends_upon_repetition:
                is_over = repeats_failure((*self.prefix, *self.steps))
            if self._trains_on_observations and (is_over or window_moves(t, self.settings.context)):
                self.steps[-1] = await self._with_answered_history(self.steps[-1])
            if is_over:
                return
            history, prompt = await self._next_prompts(history, prompt, note)

    async def _start(self, environment: Environment) -> History:
        """Return h_1 after a reset, h_tau after rolling back to E_tau, or the history after the given steps."""
        if self.rollback:
            path, step = self.rollback.path, self.rollback.step
            where = (environment, self.task, self.settings.seed, path, step)
            self.replayed_steps = await self._call("restore", roll_back, *where)
            return path[step - 1].history
        if self.given:
            return await self._go_on(environment, self.given)
        returned = await self._call("reset", environment.reset, self.task, self.settings.seed)
        observation = read_reset(returned, self.task.environment)
        self._check_observation(observation)
        return await self._open(environment, observation)

    async def _go_on(self, environment: Environment, given: GivenHistory) -> History:
        """Replay the given steps and return the history after them, as this policy would see it had it acted so."""
        steps, after = given.steps, len(given.steps) + 1
        where = (environment, self.task, given.seed, steps, after)
        self.replayed_steps = await self._call("restore", roll_back, *where)
        history = await self._open(environment, given.first_observation)
        for step in steps:
            self.given_steps += (dataclasses.replace(step, history=history),)
            history = await history_after(self.policy, self.given_steps, self.settings.context)
        return history

    async def _open(self, environment: Environment, observation: str) -> History:
        """Return h_1, the opening prompt with the first observation."""
        own = environment.system_prompt or ""
        self._check_text(own, "system_prompt")
        system = "\n\n".join(filter(None, (own, self.playbook)))
        messages = [{"role": "system", "content": system}] if system else []
        return await self.policy.begin([*messages, {"role": "user", "content": observation}])

    async def _take_step(self, environment: Environment, history: History, prompt: History) -> bool:
        """Sample an action, execute and record it. Returns whether the environment ended the attempt."""
        snapshot = await self._call("snapshot", environment.snapshot)
        action = self.action or await self.policy.act(prompt, self.request)
        step = read_step(await self._call("step", environment.step, action.text), self.task.environment)
        self._check_observation(step.observation)
        error, command = bool(step.info.get("error")), step.info.get("action")
        command = command if isinstance(command, str) else None  # of an environment that means something else by it
        record = StepRecord(
            history=history,
            action=action,
            observation=step.observation,
            reward=step.reward,
            error=error,
            snapshot=snapshot,
            command=command,
            failed=has_failed(step),
            timed_out=bool(step.info.get("timed_out")),
            prompt=None if prompt is history else prompt,
        )
        self.steps.append(record)
        if step.terminated:
            self.outcome = Outcome.SUCCESS if step.info.get("success") else Outcome.FAILURE
        elif step.truncated:
            self.unplayed_steps = 0
        return step.terminated or step.truncated

    async def _next_prompts(
        self, history: History, prompt: History, note: PromptNote | None
    ) -> tuple[History, History]:
        """Return the next history, which is trained on, and the next prompt, which may contain the experience."""
        path, context = (*self.prefix, *self.steps), self.settings.context
        next_history = await history_after(self.policy, path, context)
        if prompt is history or self.settings.reflection.scope == "step":
            return next_history, next_history
        return next_history, await history_after(self.policy, path, context, prompt=prompt, note=note)

    @property
    def _trains_on_observations(self) -> bool:
        return self.settings.distillation.method == "early_experience"

    async def _with_answered_history(self, step: StepRecord) -> StepRecord:
        """Add the history that includes the step's observation, unless it is too long: nothing is sampled from it."""
        try:
            answered = await self.policy.extend(step.history, step.action, step.observation)
        except PolicyFailure:
            return step
        return dataclasses.replace(step, answered=answered)

    def _set_horizon(self, environment: Environment) -> None:
        environment.horizon = int(self.settings.environment.horizon or environment.horizon)

    def _check_text(self, text: str, what: str) -> None:
        if not isinstance(text, str):
            raise EnvironmentFailure(
                f"{self.task.environment}: {what} is of type {type(text).__name__}; expected a text"
            )
        if without_surrogates(text) != text:
            raise EnvironmentFailure(
                f"{self.task.environment}: {what} holds half of a character (a lone surrogate), which no tokenizer "
                "takes; expected leafe_verl.core.text.without_surrogates of it"
            )

    def _check_observation(self, observation: str) -> None:
        self._check_text(observation, "an observation")
        limit = self.settings.environment.max_characters
        if len(observation) > limit:
            raise EnvironmentFlood(
                f"{self.task.environment}: an observation of {len(observation)} characters; "
                f"leafe.environment.max_characters allows {limit}"
            )

    async def _close(self) -> None:
        # In a thread and without a slot: the environment may hang, and other trees must not wait for it.
        name, seconds = f"task {self.task.key!r}: {self.task.environment}", self.settings.environment.step_timeout
        try:
            if self.environment is not None:
                await close_within(seconds, name, self.environment, self._thread)
        finally:
            self._thread.end()

    async def _call(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        async with self.environment_slots:  # waiting for a slot does not count against the time limit
            seconds = self.settings.environment.step_timeout
            name = f"{self.task.environment}.{what}"
            return await call_within(seconds, name, function, *arguments, thread=self._thread)
