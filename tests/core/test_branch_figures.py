"""What branches were worth, with values computed by hand."""

from __future__ import annotations

import pytest

from fakes import turn
from leafe_verl.core import Attempt, Branch, ExplorationTree, History, Outcome, StepRecord, Task
from leafe_verl.core.branch_figures import ALL, branch_figures
from leafe_verl.core.reflection import Reflection

OUTCOMES = {"+": Outcome.SUCCESS, "-": Outcome.HORIZON, "?": Outcome.POLICY_TIMEOUT}


def played(texts, end, branch=None, unplayed=0, error=False):
    """An attempt whose turns have all failed, but for the last one of a success."""
    failed = [True] * len(texts)
    failed[-1] = end != "+"
    steps = [
        StepRecord(History((1,), ()), turn(text), "seen", float(not wrong), error and wrong, None, failed=wrong)
        for text, wrong in zip(texts, failed, strict=True)
    ]
    return Attempt(branch, tuple(steps), OUTCOMES[end], unplayed_steps=unplayed)


def said(step, num_steps, parsed=True):
    return Reflection(step, "do it", parsed, num_steps=num_steps)


def tree_of(*attempts, reflections=()):
    tree = ExplorationTree(Task("a", "Go.", "corridor"))
    for attempt in attempts:
        tree.add(attempt)
    tree.reflections += reflections
    return tree


def test_a_branch_stands_beside_what_the_other_roots_solve_in_as_many_turns():
    roots = [played("ab", "-"), played("c", "+"), played("dc", "+"), played("dd", "-")]
    early, late = said(1, 2), said(2, 2)
    branches = [played("c", "+", Branch(0, 1, 1, early)), played("b", "-", Branch(3, 2, 1, late))]
    first, second = branch_figures(tree_of(*roots, *branches))
    assert first.succeeded and first.improved and first.fresh == pytest.approx(2 / 3)
    # From the second of two turns on one turn is left, and one of the other three roots solves the task in one.
    assert not second.succeeded and second.fresh == pytest.approx(1 / 3)


def test_a_branch_of_a_branch_has_no_fresh_sample_since_other_roots_decide_whether_it_exists():
    roots = [played("ab", "-"), played("a", "+")]
    branches = [played("ax", "-", Branch(0, 1, 1, said(1, 2))), played("c", "+", Branch(2, 2, 2, said(2, 2)))]
    shallow, deep = branch_figures(tree_of(*roots, *branches))
    assert shallow.fresh == 1.0
    assert "depth 2" in deep.groups and deep.succeeded and deep.fresh is None


def test_unscored_branches_and_roots_do_not_count():
    roots = [played("ab", "-"), played("a", "?")]
    branches = [played("c", "?", Branch(0, 1, 1, said(1, 2))), played("c", "-", Branch(0, 1, 1, said(1, 2)))]
    (only,) = branch_figures(tree_of(*roots, *branches))
    assert only.fresh is None and not only.succeeded


@pytest.mark.parametrize(
    ("parent", "reflection", "texts", "expected"),
    [
        (played("ab", "-"), said(1, 2), "c", {"reflected at the end", "tau = 1", "tau is the first failed turn"}),
        (played("ab", "-"), said(2, 2), "b", {"tau = 2", "tau is another turn", "repeats the blamed action"}),
        (played("abc", "-"), said(1, 2), "c", {"reflected every K turns", "changes the blamed action"}),
        (played("aa", "-", unplayed=2), said(1, 2), "c", {"reflected upon a repeated turn"}),
        (played("abcde", "-"), said(5, 5), "c", {"tau > 3"}),
        (played("ab", "-", error=True), said(1, 2, parsed=False), "c",
         {"the blamed turn raised an error", "the fallback's reflection"}),
    ],
)  # fmt: skip
def test_what_a_branch_came_from(parent, reflection, texts, expected):
    branch = played(texts, "+", Branch(0, reflection.step, 1, reflection))
    (figures,) = branch_figures(tree_of(parent, branch))
    assert {ALL, "depth 1", *expected} <= set(figures.groups)
    assert not any("reflections" in group for group in figures.groups), "there was a single look"


@pytest.mark.parametrize(("steps", "expected"), [((1, 1), "the reflections agree"), ((1, 2), "the reflections differ")])
def test_whether_two_looks_at_the_same_steps_agree(steps, expected):
    looks = [said(step, 2) for step in steps]
    branches = [played("c", "-", Branch(0, look.step, 1, look)) for look in looks]
    tree = tree_of(played("ab", "-"), *branches, reflections=[(0, look) for look in looks])
    assert all(expected in figures.groups for figures in branch_figures(tree))


def test_trees_that_go_on_from_a_given_history_have_none():
    tree = tree_of(played("ab", "-"), played("c", "+", Branch(0, 1, 1, said(1, 2))))
    given = ExplorationTree(tree.task, given=tree.attempts[0].steps)
    given.attempts += tree.attempts
    assert not list(branch_figures(given))
