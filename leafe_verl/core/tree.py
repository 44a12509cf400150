"""The exploration tree: all attempts of one task, joined at their rollback points."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from leafe_verl.core.environment import ROUNDING
from leafe_verl.core.policy import History, Turn
from leafe_verl.core.reflection import Reflection
from leafe_verl.core.task import Task


class Outcome(StrEnum):
    """How an attempt ended. All but the first three are unscored, since they say nothing about the policy."""

    SUCCESS = "success"
    FAILURE = "failure"
    """The environment ended the task unsolved."""
    HORIZON = "horizon"
    """The attempt reached its maximum number of steps; or was ended before because a turn repeated a failed one
    (`Attempt.ended_early`), or because the model's window held no further turn (`Attempt.out_of_context`). An attempt
    that has used up its window has failed: if it were left out, Pass@k would rise as failures get longer."""
    ENVIRONMENT_FAILURE = "environment_failure"
    """The environment raised, or its process died."""
    ENVIRONMENT_TIMEOUT = "environment_timeout"
    ENVIRONMENT_FLOOD = "environment_flood"
    """An observation was too long."""
    REPLAY_DIVERGENCE = "replay_divergence"
    """Replaying the same actions for a rollback gave another observation, reward or end than before."""
    POLICY_FAILURE = "policy_failure"
    """The inference servers failed."""
    POLICY_TIMEOUT = "policy_timeout"
    CONTEXT_OVERFLOW = "context_overflow"
    """The window did not even hold the attempt's first turn."""
    INTERRUPTED = "interrupted"
    """The training step ended first."""

    @property
    def scored(self) -> bool:
        return self in (Outcome.SUCCESS, Outcome.FAILURE, Outcome.HORIZON)


@dataclass(frozen=True)
class StepRecord:
    """One executed step t of an attempt."""

    history: History
    """h_t without experience, even if the action was sampled from a prompt with an experience."""
    action: Turn
    """a_t, the sampled action."""
    observation: str
    """o_{t+1}, the environment's feedback to the action."""
    reward: float
    error: bool
    """Whether the environment marks the observation as an error."""
    snapshot: Any
    """Snapshot of the environment's state E_t before the action; see `Environment.snapshot`."""
    command: str | None = None
    """The part of the action that the environment executed. None if it does not say."""
    answered: History | None = None
    """History including this action and observation. Set only on the last step of a token sequence, for world-model
    training; else None."""
    failed: bool | None = None
    """Whether the action has failed, as the environment says: an error, or a verdict that is not success. None where it
    has no verdict, as on a step that only leads on; see `core.environment.has_failed`."""
    timed_out: bool = False
    """Whether a time limit of the environment stopped what the action runs, such as a program."""
    prompt: History | None = field(default=None, repr=False, compare=False)
    """What the action was sampled from if that contained an experience, else None; never stored."""

    @property
    def executed(self) -> str:
        """What the environment executed of the action, which token ids and remarks around it do not change."""
        return (self.action.text if self.command is None else self.command).strip()


def repeats_failure(path: Sequence[StepRecord]) -> bool:
    """Return whether the last step of a path has failed, and executed the same as an earlier failed step."""
    *earlier, latest = path
    return bool(latest.failed) and any(step.failed and step.executed == latest.executed for step in earlier)


@dataclass(frozen=True)
class Branch:
    """A branching event: `parent` is rolled back to before `step`, and a new attempt begins with `reflection`."""

    parent: int
    """Index of the attempt that was reflected on."""
    step: int
    """tau, counted from 1 along the parent's path."""
    depth: int
    """Number of branching events from the root to here: 1 for a branch of a root."""
    reflection: Reflection


@dataclass(frozen=True)
class Attempt:
    """One run from the root or from a rollback point to its end."""

    branch: Branch | None
    """None for a root."""
    steps: tuple[StepRecord, ...]
    """Steps that this attempt executed itself. Those before its rollback point are its parent's; those before a root
    are `given` ones of the tree."""
    outcome: Outcome
    error: str | None = None
    """What failed, for an unscored outcome or an attempt that is out of context; else None."""
    replayed_steps: int = 0
    """Environment steps executed again to reach the rollback point."""
    unplayed_steps: int = 0
    """Steps that were left up to the horizon when a scored attempt ended; 0 if the environment truncated it. Stores of
    earlier versions have it only for attempts that were ended early."""

    @property
    def ended_early(self) -> bool:
        """Whether its last turn repeated a failed one, which ended it (`leafe.reflection.upon_repetition`)."""
        return self.outcome is Outcome.HORIZON and self.unplayed_steps > 0

    @property
    def out_of_context(self) -> bool:
        """Whether the model's window held no further turn, which ended it; see `ContextOverflow`."""
        return self.outcome is Outcome.HORIZON and self.error is not None

    @property
    def depth(self) -> int:
        return self.branch.depth if self.branch else 0


@dataclass(frozen=True)
class RecoveryTarget:
    """An action that succeeded elsewhere in the tree, executed after a failed turn; see recovery_targets.py."""

    attempt: int
    """Index of the attempt whose step t - 1 failed."""
    step: int
    """t, counted from 1 along that attempt's path. The action was executed in the state before this step."""
    source: int
    """Index of the successful attempt whose last action it is."""
    outcome: Outcome
    """How it ended: `success` if the environment confirms the action; `horizon` if the task is not over after it."""
    replayed_steps: int = 0
    """Environment steps executed again to reach the failed turn."""

    @property
    def confirmed(self) -> bool:
        return self.outcome is Outcome.SUCCESS


class ExplorationTree:
    """All attempts of one task, append-only. An attempt's index is its place in breadth-first order."""

    def __init__(self, task: Task, given: tuple[StepRecord, ...] = ()) -> None:
        self.task = task
        self.given = given
        """Steps of an earlier attempt that the roots go on from; see given.py. No attempt of this tree executed them.
        Empty: the roots begin at the task's start."""
        self.attempts: list[Attempt] = []
        self.reflections: list[tuple[int, Reflection]] = []
        """Every reflection, with the index of the attempt that it is on, in the order of the requests."""
        self.recovery_targets: list[RecoveryTarget] | None = None
        """Recovery targets in the order of their execution, confirmed or not. None: they were not looked for."""

    def add(self, attempt: Attempt) -> int:
        """Append an attempt and return its index. Raises ValueError if its rollback point is not in the tree."""
        branch = attempt.branch
        if branch and not (branch.parent < len(self.attempts) and 1 <= branch.step <= len(self.path(branch.parent))):
            raise ValueError(
                f"the rollback point is outside the tree: attempt {branch.parent} has no step {branch.step}"
            )
        self.attempts.append(attempt)
        return len(self.attempts) - 1

    def path(self, index: int) -> tuple[StepRecord, ...]:
        """Return all steps from the task's start to the attempt's end. Step t is at index t - 1."""
        attempt = self.attempts[index]
        if attempt.branch is None:
            return self.given + attempt.steps
        return self.path(attempt.branch.parent)[: attempt.branch.step - 1] + attempt.steps

    def branches(self) -> list[tuple[int, Branch]]:
        """Return the branching events, each with the index of the attempt that it started."""
        return [(index, attempt.branch) for index, attempt in enumerate(self.attempts) if attempt.branch]

    @property
    def environment_steps(self) -> int:
        """Number of executed steps: those of all attempts, and of recovery targets. Replayed steps do not count."""
        executed = sum(recovery.outcome.scored for recovery in self.recovery_targets or ())
        return sum(len(attempt.steps) for attempt in self.attempts) + executed

    @property
    def replayed_steps(self) -> int:
        """Number of steps that were executed again, to roll back or to reach a failed turn."""
        replays = [attempt.replayed_steps for attempt in self.attempts]
        return sum(replays) + sum(recovery.replayed_steps for recovery in self.recovery_targets or ())

    def total_return(self, index: int) -> float:
        """Return the sum of the rewards along the attempt's path."""
        return sum(step.reward for step in self.path(index))

    def best_return(self, index: int) -> float:
        """Return the highest sum of rewards after any step of the attempt's path; minus infinity without an own step.

        The steps before a rollback point count for the branch and for the attempt that it left, since both have them.
        """
        if not self.attempts[index].steps:
            return float("-inf")
        return max(itertools.accumulate(step.reward for step in self.path(index)))

    def improved(self, index: int) -> bool:
        """Return whether a branch's best return exceeds that of the attempt it left; False if it is unscored."""
        attempt = self.attempts[index]
        if attempt.branch is None or not attempt.outcome.scored:
            return False
        return self.best_return(index) > self.best_return(attempt.branch.parent) + ROUNDING
