"""Renders what branches were worth, by what they came from; core/branch_figures.py says what is compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from leafe_verl.core import ExplorationTree
from leafe_verl.core.branch_figures import BranchFigures, branch_figures
from leafe_verl.evaluation.bootstrap import Ratio, bootstrap_ratio
from leafe_verl.evaluation.recovery import UNKNOWN
from leafe_verl.evaluation.tables import estimate_cell, percent, text_table

HEADING = ("", "branches", "improved, %", "succeeded, %", "fresh sample, %", "difference (95 % interval over tasks)")
Grouped = dict[str, dict[str, list[BranchFigures]]]
"""Group -> task key -> its branches."""


def render_branches(trees: Iterable[ExplorationTree]) -> str:
    """Return a table with one row for each group of branches; the difference is over those with a fresh sample."""
    grouped: Grouped = defaultdict(lambda: defaultdict(list))
    for tree in trees:
        for branch in branch_figures(tree):
            for group in branch.groups:
                grouped[group][tree.task.key].append(branch)
    if not grouped:
        return "no scored branch"
    first, *others = grouped
    return text_table([HEADING, *(_row(group, grouped[group].values()) for group in (first, *sorted(others)))])


def _row(group: str, tasks: Iterable[Sequence[BranchFigures]]) -> tuple[str, ...]:
    tasks = list(tasks)
    branches = [branch for of_task in tasks for branch in of_task]
    compared = [[branch for branch in of_task if branch.fresh is not None] for of_task in tasks]
    wholes = [float(len(of_task)) for of_task in compared]
    fresh = Ratio([sum(branch.fresh or 0.0 for branch in of_task) for of_task in compared], wholes)
    succeeded = Ratio([float(sum(branch.succeeded for branch in of_task)) for of_task in compared], wholes)
    sampled, difference = bootstrap_ratio(fresh), bootstrap_ratio(succeeded, minus=fresh)
    return (
        group,
        str(len(branches)),
        percent(sum(branch.improved for branch in branches) / len(branches)),
        percent(sum(branch.succeeded for branch in branches) / len(branches)),
        percent(sampled.mean) if sampled else UNKNOWN,
        estimate_cell(difference, sign=True) if difference else UNKNOWN,
    )
