"""The figures of recovery: of the attempts of which a turn has failed, the share that succeeds at a later turn.

A turn has failed if `StepRecord.failed` says so. A failed turn counts if the attempt took another turn after it, since
one that ended its attempt left nothing to recover in. Unscored attempts are left out. Only roots count: a branch has an
experience in its prompts. A branch without one (`leafe.reflection.experience=false`) does not count either, because it
shares its first turns with its parent, and begins where a reflection chose. The opposite of a recovery, a right turn
before a wrong one, does not exist here, because a success ends its attempt.

An attempt that exploring ended because a turn repeated a failed one (`leafe.reflection.upon_repetition`) counts as
unsolved, although it might have succeeded in the turns that it did not play: `recovery`, `recovery_1` and the fresh
samples beside them are lower bounds then. Shares by later turns are of the attempts that had not repeated a turn
before, and so read higher, and `repeat` lacks the repetitions that would have followed the first. Plain attempts and
validation play every turn.

What a fresh sample would have solved stands beside it, because a policy that ignores the feedback and samples anew
recovers now and then, too. It is the share of the task's other roots that succeed within as many turns as were left
after the failure. With attempts of two turns that is the share of first turns that succeed. If later turns were no
better than a new attempt, both shares would be equal.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from leafe_verl.core.tree import Attempt, ExplorationTree, Outcome

PREFIX = "recovery/"
"""Prefix of all counts of this module."""
NAMED_TURNS = 8
"""Figures by turn are counted up to this turn. Those over all turns count every turn."""
SHARES = {
    "recovery": ("recovered", "failures"),
    "recovery_fresh": ("fresh", "compared"),
    "repeat": ("repeats", "failed_turns"),
    "first_turn": ("first_turns_solved", "attempts"),
}
"""Share -> the count of the part, and the count of the whole."""
SHARES_BY_TURN = ("recovery", "recovery_fresh")
"""Shares that are also counted by the turn that failed, under names such as `recovery_1`."""


@dataclass(frozen=True)
class PlainAttempt:
    """What the figures need to know of one scored root."""

    solved: bool
    turns: int
    """Number of turns, at least 1."""
    failed: tuple[int, ...]
    """The turns t, counted from 1 and in order, that failed and were followed by another one."""
    repeats: int
    """Number of failed turns that the next turn repeats: the same executed code or command, else the same text."""
    unplayed: int = 0
    """Turns that were left up to the horizon when the attempt ended; see `Attempt.unplayed_steps`."""

    def as_mapping(self) -> dict[str, Any]:
        """Return the attempt as plain values."""
        return {**asdict(self), "failed": list(self.failed)}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> PlainAttempt:
        """Return the attempt of plain values."""
        # Stores of earlier versions have no number of unplayed turns, or null.
        return cls(**{**values, "failed": tuple(values["failed"]), "unplayed": values.get("unplayed") or 0})


def plain_attempts(tree: ExplorationTree) -> tuple[PlainAttempt, ...]:
    """Return the scored roots of a tree, in their order; none if they go on from a given history, see given.py."""
    return tuple(plain_roots(tree).values())


def plain_roots(tree: ExplorationTree) -> dict[int, PlainAttempt]:
    """Return the same attempts by their indices in the tree."""
    roots = {} if tree.given else dict(enumerate(tree.attempts))
    return {
        index: _plain_attempt(root)
        for index, root in roots.items()
        if root.branch is None and root.outcome.scored and root.steps
    }


def _plain_attempt(root: Attempt) -> PlainAttempt:
    followed = [(t, *pair) for t, pair in enumerate(itertools.pairwise(root.steps), start=1) if pair[0].failed]
    return PlainAttempt(
        solved=root.outcome is Outcome.SUCCESS,
        turns=len(root.steps),
        failed=tuple(t for t, _, _ in followed),
        repeats=sum(step.executed == following.executed for _, step, following in followed),
        unplayed=root.unplayed_steps,
    )


def count_recovery(attempts: Sequence[PlainAttempt]) -> dict[str, float]:
    """Return the counts of one task's attempts, which add up over tasks. They are empty without an attempt.

    `failures` are the attempts with a failed turn, each counted once, and `recovered` those of them that succeeded. Of
    the failures of a task with several attempts, `compared`, `fresh` is the sum of what a fresh sample solves, counted
    from the first failed turn. `failures_1` and so on count an attempt at each turn that failed.
    """
    if not attempts:
        return {}
    counts: dict[str, float] = {name: 0 for pair in SHARES.values() for name in pair}
    counts["attempts"] = len(attempts)
    counts["first_turns_solved"] = sum(attempt.solved and attempt.turns == 1 for attempt in attempts)
    counts["failed_turns"] = sum(len(attempt.failed) for attempt in attempts)
    counts["repeats"] = sum(attempt.repeats for attempt in attempts)
    fresh = FreshSamples(attempts)
    for attempt in attempts:
        named = [(f"_{t}", t) for t in attempt.failed if t <= NAMED_TURNS]
        for suffix, t in [("", t) for t in attempt.failed[:1]] + named:
            for name, number in fresh.counts_of(attempt, t).items():
                counts[f"{name}{suffix}"] = counts.get(f"{name}{suffix}", 0) + number
    return {f"{PREFIX}{name}": number for name, number in counts.items()}


class FreshSamples:
    """Tells what the other attempts of a task solve within a number of turns."""

    def __init__(self, attempts: Sequence[PlainAttempt]) -> None:
        self.horizon = max((attempt.turns + attempt.unplayed for attempt in attempts), default=0)
        """Most turns of an attempt. Stores of earlier versions do not say how many turns a success had left, so that it
        may be too low where every attempt succeeded; a fresh sample then seems to solve less."""
        self._others = len(attempts) - 1
        self._solved_at = sorted(attempt.turns for attempt in attempts if attempt.solved)

    def share(self, attempt: PlainAttempt, turns: int) -> float | None:
        """Return the share of the attempts other than `attempt` that succeed within `turns`; None if there are none."""
        if self._others < 1:
            return None
        solved = bisect_right(self._solved_at, turns) - (attempt.solved and attempt.turns <= turns)
        return solved / self._others

    def counts_of(self, attempt: PlainAttempt, turn: int) -> dict[str, float]:
        """Return what an attempt counts whose `turn` has failed."""
        counts: dict[str, float] = {"failures": 1, "recovered": int(attempt.solved)}
        fresh = self.share(attempt, self.horizon - turn)
        return counts if fresh is None else counts | {"compared": 1, "fresh": fresh}


def recovery_by_task(attempts: Iterable[tuple[str, Sequence[PlainAttempt]]]) -> dict[str, dict[str, float]]:
    """Return task key -> its counts. Attempts of one task may come in several parts; tasks without any are left out."""
    grouped: dict[str, list[PlainAttempt]] = {}
    for key, part in attempts:
        grouped.setdefault(key, []).extend(part)
    return {key: count_recovery(each) for key, each in grouped.items() if each}


def share_parts(counts: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return the shares that the names of counts allow: share -> count of the part, and count of the whole."""
    pattern = re.compile(rf"{PREFIX}failures(_\d+)")
    turns = sorted({found[1] for name in counts if (found := pattern.fullmatch(name))}, key=lambda turn: int(turn[1:]))
    pairs = dict(SHARES)
    for turn, name in itertools.product(turns, SHARES_BY_TURN):
        part, whole = SHARES[name]
        pairs[f"{name}{turn}"] = f"{part}{turn}", f"{whole}{turn}"
    return {name: (f"{PREFIX}{part}", f"{PREFIX}{whole}") for name, (part, whole) in pairs.items()}
