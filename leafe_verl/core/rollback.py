"""Takes an environment back to a step of a recorded path: to a snapshot, or by replaying the recorded actions."""

from __future__ import annotations

from collections.abc import Sequence

from leafe_verl.core.environment import Environment, ReplayDivergence, read_reset, read_step
from leafe_verl.core.task import Task
from leafe_verl.core.tree import StepRecord


def roll_back(environment: Environment, task: Task, seed: int, path: Sequence[StepRecord], step: int) -> int:
    """Take an environment to E_t, the state before step t of `path`, and return how many steps were replayed.

    It restores the latest snapshot up to step t and replays what follows. A tree that was read from a store has no
    snapshots, so it is replayed from the start. Raises ReplayDivergence if an observation or a reward
    is not the recorded one.

    Args:
        environment: An environment of the task. Its present state does not matter.
        seed: The seed that the path was recorded with.
        path: All steps from the task's start. At least one.
        step: t, from 1 to len(path) + 1. The last of these is the state after the whole path.
    """
    known = next((s for s in range(min(step, len(path)), 0, -1) if path[s - 1].snapshot is not None), 0)
    if known:
        replayed = environment.restore(path[known - 1].snapshot)
    else:
        replayed, known = 0, 1
        observation = read_reset(environment.reset(task, seed), task.environment)
        _check(task, seed, 1, observation, path[0].history.messages[-1]["content"])
    for t in range(known, step):
        recorded = path[t - 1]
        again = read_step(environment.step(recorded.action.text), task.environment)
        _check(task, seed, t + 1, again.observation, recorded.observation)
        _check(task, seed, t + 1, f"reward {again.reward}", f"reward {float(recorded.reward)}")
    return replayed + step - known


def _check(task: Task, seed: int, t: int, said: str, recorded: str) -> None:
    if said != recorded:
        raise ReplayDivergence(
            f"task {task.key!r}, seed {seed}: after {t - 1} replayed actions the environment says "
            f"{said[:200]!r}, not {recorded[:200]!r} as recorded. {task.environment!r} must be deterministic "
            "given task, seed and actions; leafe.seed and leafe.environment.options must be those of the recording"
        )
