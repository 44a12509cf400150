"""What branches are worth: their success beside a fresh sample, by what they came from.

A branch at tau has the turns from tau to the horizon. What a fresh sample would have solved stands beside it, as for
recovery: the share of the task's other roots that succeed within as many turns. If a reflection were worth nothing,
both shares would be equal. Unscored branches are left out. Branches of a task with a single scored root have no fresh
sample, and neither have branches of branches: there are more of them where fewer roots failed, since these share the
budget, so that the other roots would read too high beside them. A budget that leaves some failed roots without a
branch (`budget.environment_steps`, or fewer attempts than twice the roots) has the same effect at depth 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from leafe_verl.core.recovery_figures import FreshSamples, plain_roots
from leafe_verl.core.tree import Branch, ExplorationTree, Outcome

NAMED_STEPS = 3
"""Branches at a later tau are one group."""
ALL = "all branches"
Look = tuple[int, int]
"""A reflected attempt's index, and the number of its steps that were reflected on."""


@dataclass(frozen=True)
class BranchFigures:
    """One scored branch."""

    groups: tuple[str, ...]
    """What it came from, `ALL` among them; see `_groups`."""
    succeeded: bool
    improved: bool
    fresh: float | None
    """What a fresh sample would have solved, from 0 to 1. None where there is none to compare with."""


def branch_figures(tree: ExplorationTree) -> Iterator[BranchFigures]:
    """Yield the scored branches of a tree in their order; none if it goes on from a given history, see given.py."""
    if tree.given:
        return
    roots = plain_roots(tree)
    fresh = FreshSamples([*roots.values()])
    named = named_steps(tree)
    for index, branch in tree.branches():
        attempt = tree.attempts[index]
        if not (attempt.outcome.scored and attempt.steps):
            continue
        root = roots.get(_root(tree, index))
        yield BranchFigures(
            groups=(*_groups(tree, index, branch), *_agreement(branch, named)),
            succeeded=attempt.outcome is Outcome.SUCCESS,
            improved=tree.improved(index),
            fresh=fresh.share(root, fresh.horizon - branch.step + 1) if root and branch.depth == 1 else None,
        )


def named_steps(tree: ExplorationTree) -> dict[Look, list[int]]:
    """Return each look at the same steps -> the steps that the model's own reflections name, one or several."""
    named: dict[Look, list[int]] = defaultdict(list)
    for index, reflection in tree.reflections:
        if reflection.parsed:
            named[index, reflection.num_steps].append(reflection.step)
    return dict(named)


def _agreement(branch: Branch, named: Mapping[Look, Sequence[int]]) -> tuple[str, ...]:
    """Say whether another reflection on the same steps names the same one; empty if there is no other."""
    steps = named.get((branch.parent, branch.reflection.num_steps), ())
    if len(steps) < 2 or not branch.reflection.parsed:
        return ()
    return ("the reflections agree" if steps.count(branch.reflection.step) > 1 else "the reflections differ",)


def _groups(tree: ExplorationTree, index: int, branch: Branch) -> tuple[str, ...]:
    """Name what a branch came from: trigger, tau, the blamed turn, the reflection, and whether the action changed."""
    parent, path, reflection = tree.attempts[branch.parent], tree.path(branch.parent), branch.reflection
    step, first = path[branch.step - 1], tree.attempts[index].steps[0]
    failed = [t for t, each in enumerate(path, start=1) if each.failed]
    if reflection.num_steps < len(path):
        trigger = "reflected every K turns"
    elif parent.ended_early:
        trigger = "reflected upon a repeated turn"
    else:
        trigger = "reflected at the end"
    return (
        ALL,
        f"depth {branch.depth}",
        trigger,
        f"tau = {branch.step}" if branch.step <= NAMED_STEPS else f"tau > {NAMED_STEPS}",
        "tau is the first failed turn" if failed[:1] == [branch.step] else "tau is another turn",
        "the blamed turn raised an error" if step.error else "the blamed turn raised no error",
        "the model's reflection" if reflection.parsed else "the fallback's reflection",
        "repeats the blamed action" if first.executed == step.executed else "changes the blamed action",
    )


def _root(tree: ExplorationTree, index: int) -> int:
    branch = tree.attempts[index].branch
    return index if branch is None else _root(tree, branch.parent)
