"""A check of an environment of one's own: whether attempts can be played, rolled back and trained on."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence

from leafe_verl.core.environment import Environment, Step, read_reset, read_step
from leafe_verl.core.task import Task

SEED = 0


def check_environment(make: Callable[[], Environment], task: Task, actions: Sequence[str]) -> None:
    """Play `actions` on `task` and check what exploring relies on. Raises AssertionError that says what differs.

    Checked are: the forms of what `reset` and `step` return; that the same actions give the same answers in two
    instances; that a snapshot of each step can be pickled, and restored in another instance, from where the remaining
    actions give the same answers again; and that `close` can be called twice.

    Args:
        make: Returns a new instance, as in `check_environment(Guess, task, ["50", "25", "42"])`.
        actions: What an agent would answer. Those after the step that ends the task are not played.
    """
    first, second = make(), make()
    try:
        told, snapshots = _play(first, task, actions)
        _require(_play(second, task, actions)[0] == told, "the same actions gave other answers in another instance")
        for number, snapshot in enumerate(snapshots):
            restored = pickle.loads(pickle.dumps(snapshot))
            second.restore(restored)
            again = [_step(second, action) for action in actions[number : len(told) - 1]]
            _require(again == told[number + 1 :], f"after {number} steps were restored, the same actions gave others")
    finally:
        for each in (first, second, second):
            each.close()


def _play(
    environment: Environment, task: Task, actions: Sequence[str]
) -> tuple[list[tuple[object, ...]], list[object]]:
    """Return what an environment told, first in `reset` and then in each step, and its snapshots before each step."""
    name = type(environment).__name__
    observation = read_reset(environment.reset(task, SEED), name)
    _require(isinstance(observation, str), f"reset gave an observation of type {type(observation).__name__}, no text")
    told: list[tuple[object, ...]] = [(observation,)]
    snapshots: list[object] = []
    for action in actions:
        snapshots.append(environment.snapshot())
        told.append(_step(environment, action))
        if any(told[-1][2:4]):
            break
    return told, snapshots


def _step(environment: Environment, action: str) -> tuple[object, ...]:
    step: Step = read_step(environment.step(action), type(environment).__name__)
    _require(isinstance(step.observation, str), f"an observation is of type {type(step.observation).__name__}, no text")
    return (*step[:4], step.info.get("success"), step.info.get("failed"), step.info.get("error"))


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise AssertionError(problem)
