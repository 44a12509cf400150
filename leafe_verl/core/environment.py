"""The interface of an environment whose attempts can be rolled back: reset, step, snapshot, restore."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from leafe_verl.core.task import Task

ROUNDING = 1e-9
"""Returns that differ by less are equal, since rewards that are shares (1/9, then 6/9 - 1/9) do not add up exactly."""


class Step(NamedTuple):
    """Gymnasium's five-tuple, for text. The attempt's return is the sum of its rewards."""

    observation: str
    reward: float
    terminated: bool
    """The task is over: solved, or impossible to solve from here."""
    truncated: bool
    """The environment stopped for another reason, such as a limit of its own."""
    info: Mapping[str, Any]
    """Optional keys. `success`: bool, the task is solved. `error`: bool, the observation reports an error. `failed`:
    bool, the environment's verdict on the action; absent or None for the rule of `has_failed`. `timed_out`:
    bool, a time limit of the environment stopped what the action runs, such as a program. `action`: str, the part of
    the answer that was executed, for a summary of past steps; absent if that is all or nothing."""


class EnvironmentFailure(Exception):
    """The environment failed: it raised, hung or died. The attempt is unscored: neither a success nor a zero reward."""


class EnvironmentTimeout(EnvironmentFailure):
    """A call took longer than its time limit."""


class EnvironmentFlood(EnvironmentFailure):
    """An observation is longer than `leafe.environment.max_characters`."""


class ReplayDivergence(EnvironmentFailure):
    """Replaying the same actions gave another observation, reward or end: the rollback point cannot be reached."""


class Environment(Protocol):
    """One task that one attempt at a time plays. Calls block, and the caller limits how long they may take.

    Any exception that leaves a method ends the attempt as an `EnvironmentFailure`. One that leaves `close` is logged,
    since the attempt is over by then.
    """

    system_prompt: str
    """System prompt that tells the agent about this kind of task; empty for none."""
    horizon: int
    """Maximum number of steps of an attempt (T in the paper). The caller may set another number before `reset`."""

    def reset(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        """Start `task` and return the first observation o_1, which states the task, and a mapping that is ignored."""

    def step(self, action: str) -> Step:
        """Execute one action. An action that makes no sense is answered by feedback, not by an exception."""

    def snapshot(self) -> Any:
        """Return the present state, or a description of it: picklable, and valid in any instance of this class."""

    def restore(self, snapshot: Any) -> int:
        """Go back to a snapshot's state. Returns how many environment steps were replayed to get there."""

    def close(self) -> None:
        """Release all resources. May be called twice, and while a step hangs."""


@dataclass(frozen=True)
class ReplaySnapshot:
    """A state, described by the actions that lead to it."""

    task: Task
    seed: int
    actions: tuple[str, ...]
    digests: tuple[str, ...]
    """SHA-256 of the first observation, and of what `describe_step` says of each step; len(actions) + 1 digests."""


class ReplayEnvironment(ABC):
    """Base class for environments without snapshots: `restore` resets, replays, and checks every step.

    A subclass implements `start` and `advance`; this class records the actions and observations.
    """

    system_prompt: str = ""
    horizon: int = 30

    @abstractmethod
    def start(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        """Start `task`, as `Environment.reset` does."""

    @abstractmethod
    def advance(self, action: str) -> Step:
        """Execute one action, as `Environment.step` does."""

    def reset(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        started = self.start(task, seed)
        self._record = ReplaySnapshot(task, seed, (), (_digest(read_reset(started, type(self).__name__)),))
        return started

    def step(self, action: str) -> Step:
        step = read_step(self.advance(action), type(self).__name__)
        record = self._record
        digests = (*record.digests, _digest(describe_step(step)))
        self._record = ReplaySnapshot(record.task, record.seed, (*record.actions, action), digests)
        return step

    def snapshot(self) -> ReplaySnapshot:
        return self._record

    def restore(self, snapshot: ReplaySnapshot) -> int:
        """Replay the actions of `snapshot`. Raises ReplayDivergence if a step is not the recorded one."""
        observation, _ = self.reset(snapshot.task, snapshot.seed)
        self._check(snapshot, 0, observation)
        for index, action in enumerate(snapshot.actions, start=1):
            self._check(snapshot, index, describe_step(self.step(action)))
        return len(snapshot.actions)

    def close(self) -> None:  # noqa: B027 - optional to override
        """Do nothing: the base class holds no resources."""

    @staticmethod
    def _check(snapshot: ReplaySnapshot, index: int, said: str) -> None:
        """Raise ReplayDivergence if the first observation, or what `describe_step` says, is not the recorded one."""
        if _digest(said) != snapshot.digests[index]:
            raise ReplayDivergence(
                f"task {snapshot.task.key!r}, seed {snapshot.seed}: after {index} replayed actions the observation, "
                f"the reward or the end differs from the recorded one. {snapshot.task.environment!r} must be "
                f"deterministic given task, seed and actions; it now shows: {said[:200]!r}"
            )


def describe_step(step: Step) -> str:
    """Return what a replay must repeat of a step: states that differ may look alike."""
    ends = f"terminated {step.terminated}, truncated {step.truncated}"
    return f"reward {step.reward}, {ends}: {step.observation}"


def _digest(said: str) -> str:
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()


def has_failed(step: Step) -> bool | None:
    """Return whether the action has failed: True, False for a success, None if the environment has no verdict on it.

    An environment that judges every action, as tests judge a program, says so in `failed`. Of any other, an action has
    failed if the observation reports an error, or if it ended the task and did not solve it.
    """
    failed, error = step.info.get("failed"), step.info.get("error")
    if failed is not None:
        return bool(failed)
    if step.terminated and not error:
        return not step.info.get("success")
    return True if error else None


def read_step(returned: Any, environment: str) -> Step:
    """Return what `step` has returned. Raises EnvironmentFailure, which says what came, for what is no step."""
    try:
        observation, reward, terminated, truncated, info = returned
        step = Step(observation, float(reward), bool(terminated), bool(truncated), info)
        if not isinstance(info, Mapping):
            raise TypeError(f"info is of type {type(info).__name__}")
        if not math.isfinite(step.reward):
            raise ValueError(f"the reward is {step.reward}")
        has_failed(step)
    except Exception as error:  # values of any kind, which may refuse to be numbers or truth values
        raise EnvironmentFailure(
            f"{environment}.step returned {returned!r:.200}: {error}; expected the observation, a finite reward, "
            "terminated, truncated, and a mapping"
        ) from error
    return step


def read_reset(returned: Any, environment: str) -> str:
    """Return the first observation of what `reset` has returned. Raises EnvironmentFailure for anything else."""
    if isinstance(returned, tuple | list) and len(returned) == 2:
        observation: str = returned[0]
        return observation
    raise EnvironmentFailure(
        f"{environment}.reset returned {returned!r:.200}; expected the first observation, and a mapping"
    )
