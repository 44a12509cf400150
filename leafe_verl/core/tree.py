"""The exploration tree: all attempts of one task, joined at their rollback points."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import Enum
from typing import Any

from leafe_verl.core.policy import History, Turn
from leafe_verl.core.reflection import Reflection
from leafe_verl.core.task import Task

ROUNDING = 1e-9
"""Returns this close are equal: increments of a share (1/9, then 6/9 - 1/9) do not add up exactly."""


class Outcome(str, Enum):
    """How an attempt ended. All but the first three are unscored: they say nothing about the policy."""

    SUCCESS = "success"
    FAILURE = "failure"
    """The environment ended the task unsolved."""
    HORIZON = "horizon"
    """The steps were spent."""
    ENVIRONMENT_FAILURE = "environment_failure"
    """The environment raised, or its process died."""
    ENVIRONMENT_TIMEOUT = "environment_timeout"
    ENVIRONMENT_FLOOD = "environment_flood"
    """An observation was too long."""
    REPLAY_DIVERGENCE = "replay_divergence"
    """Rolled back by replay, the environment showed something else than before."""
    POLICY_FAILURE = "policy_failure"
    """The inference servers failed."""
    POLICY_TIMEOUT = "policy_timeout"
    CONTEXT_OVERFLOW = "context_overflow"
    INTERRUPTED = "interrupted"
    """The training step ended first."""

    @property
    def scored(self) -> bool:
        return self in (Outcome.SUCCESS, Outcome.FAILURE, Outcome.HORIZON)


@dataclass(frozen=True)
class StepRecord:
    """One executed step t of an attempt."""

    history: History
    """h_t, free of experience, whatever the prompt held when the action was sampled."""
    action: Turn
    """a_t."""
    observation: str
    """o_{t+1}, the environment's answer."""
    reward: float
    error: bool
    """The environment said that the observation reports an error."""
    snapshot: Any
    """Token of the environment's state E_t, before the action."""
    command: str | None = None
    """What of the action the environment executed; None where it does not say."""
    answered: History | None = None
    """h_t with a_t and o_{t+1} at its end, where no next step's history goes on like that, and only where observations
    are trained on; else None."""


@dataclass(frozen=True)
class Branch:
    """Where an attempt leaves another one: roll `parent` back to before `step`, with `reflection` in the prompt."""

    parent: int
    """Index of the attempt that was reflected upon."""
    step: int
    """tau, counted from 1 along the parent's path."""
    depth: int
    """1 for a branch of a root."""
    reflection: Reflection


@dataclass(frozen=True)
class Attempt:
    """One run from a start (the root or a rollback point) to termination."""

    branch: Branch | None
    """None for a root."""
    steps: tuple[StepRecord, ...]
    """The steps this attempt executed itself; those before its rollback point are its parent's."""
    outcome: Outcome
    error: str | None = None
    """What broke, for unscored outcomes."""
    replayed_steps: int = 0
    """Environment steps executed again to reach the rollback point."""

    @property
    def depth(self) -> int:
        return self.branch.depth if self.branch else 0


class ExplorationTree:
    """Append-only. An attempt's index is its place in the breadth-first queue."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.attempts: list[Attempt] = []
        self.reflections: list[tuple[int, Reflection]] = []
        """Every reflection with the attempt it looked at, in the order of their requests."""

    def add(self, attempt: Attempt) -> int:
        """Append an attempt and return its index. Raises ValueError when its rollback point is not in the tree."""
        branch = attempt.branch
        if branch and not (branch.parent < len(self.attempts) and 1 <= branch.step <= len(self.path(branch.parent))):
            raise ValueError(f"no step {branch.step} in attempt {branch.parent}: rollback point outside the tree")
        self.attempts.append(attempt)
        return len(self.attempts) - 1

    def path(self, index: int) -> tuple[StepRecord, ...]:
        """All steps from the task's start to the attempt's end; step t stands at t - 1."""
        attempt = self.attempts[index]
        if attempt.branch is None:
            return attempt.steps
        return self.path(attempt.branch.parent)[: attempt.branch.step - 1] + attempt.steps

    def branches(self) -> list[tuple[int, Branch]]:
        """The branching events, each with the index of the attempt it started."""
        return [(index, attempt.branch) for index, attempt in enumerate(self.attempts) if attempt.branch]

    def return_of(self, index: int) -> float:
        """Sum of the rewards along the attempt's path."""
        return sum(step.reward for step in self.path(index))

    def best_return(self, index: int) -> float:
        """Highest sum of rewards after any of the attempt's own steps; minus infinity when it has none."""
        own = len(self.attempts[index].steps)
        sums = list(itertools.accumulate(step.reward for step in self.path(index)))
        return max(sums[len(sums) - own :], default=float("-inf"))

    def improved(self, index: int) -> bool:
        """Whether a branch's best return exceeds that of the attempt it left. Unscored attempts never do."""
        attempt = self.attempts[index]
        if attempt.branch is None or not attempt.outcome.scored:
            return False
        return self.best_return(index) > self.best_return(attempt.branch.parent) + ROUNDING
