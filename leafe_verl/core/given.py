"""Given histories: an earlier attempt's steps up to a failed one, from which every policy can be made to go on.

A policy's own failures get harder as it gets better, since it no longer makes the easy mistakes. Recovery is therefore
also measured from failures that are the same for all policies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from leafe_verl.core.task import Task
from leafe_verl.core.text import seeded_random
from leafe_verl.core.tree import ExplorationTree, Outcome, StepRecord

KEY_LENGTH = 16
"""Number of hexadecimal digits in a key."""


@dataclass(frozen=True)
class GivenHistory:
    """The first steps of an earlier attempt, the last of which has failed."""

    task: Task
    steps: tuple[StepRecord, ...]
    """Steps 1 to t from the task's start, at least one. The tokens of their actions must be those of the tokenizer of
    the policy that goes on; the tokens of their histories are not read."""
    seed: int
    """Seed that the environment was reset with when they were recorded."""

    @property
    def key(self) -> str:
        """A name that differs between histories of other tasks, actions or observations."""
        return history_key(self.task, self.steps)

    @property
    def first_observation(self) -> str:
        """o_1, which states the task."""
        return self.steps[0].history.messages[-1]["content"]


def history_key(task: Task, steps: Sequence[StepRecord]) -> str:
    """Return a hash of the task's key and of the actions and observations, as text."""
    told = [task.key, *([step.action.text, step.observation] for step in steps)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:KEY_LENGTH]


def failed_beginnings(tree: ExplorationTree, turn: int) -> Iterator[tuple[StepRecord, ...]]:
    """Yield the first `turn` steps of each root whose last one has failed and has not ended the task.

    Branches are left out because they were told an experience, and roots that go on from a given history because the
    failure is not one of the policy that played them alone.
    """
    for attempt in tree.attempts:
        steps, is_over = attempt.steps[:turn], attempt.outcome in (Outcome.SUCCESS, Outcome.FAILURE)
        is_last = len(attempt.steps) == turn
        if attempt.branch or tree.given or len(steps) < turn or (is_last and is_over):
            continue
        if steps[-1].failed:
            yield steps


def choose_histories(histories: Sequence[GivenHistory], number: int, seed: int) -> list[GivenHistory]:
    """Draw at most `number` of a task's histories. The draw does not depend on their order, and is sorted by key.

    Histories whose executed actions differ from those of all before them are preferred. Equal histories count once.
    """
    known = {history.key: history for history in histories}
    draw = seeded_random("".join(f"{seed}:{history.task.key}" for history in histories[:1]))
    shuffled = draw.sample(sorted(known), len(known))
    programs = {key: tuple(step.executed for step in known[key].steps) for key in shuffled}
    first = {program: key for key, program in reversed(programs.items())}
    preferred = sorted(shuffled, key=lambda key: first[programs[key]] != key)
    return [known[key] for key in sorted(preferred[:number])]


def count_after_given(tree: ExplorationTree) -> dict[str, int]:
    """Count what the scored roots of a tree did in the first turn after its given history."""
    played = [each for each in tree.attempts if each.branch is None and each.outcome.scored and each.steps]
    at_once = [each for each in played if len(each.steps) == 1 and each.outcome is Outcome.SUCCESS]
    failed = tree.given[-1].executed
    return {
        "given/next_turns": len(played),
        "given/next_turns_solved": len(at_once),
        "given/next_turns_repeated": sum(each.steps[0].executed == failed for each in played),
    }
