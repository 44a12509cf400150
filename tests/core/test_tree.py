"""The exploration tree: paths, returns and what counts as an improvement."""

from __future__ import annotations

import pytest

from fakes import TASK, turn
from leafe_verl.core import Attempt, Branch, ExplorationTree, History, Outcome, Reflection, StepRecord, Turn


def steps(*rewards, names="abcdefgh"):
    empty = History((1,), ({"role": "user", "content": "0"},))
    return tuple(
        StepRecord(empty, turn(name), name, reward, False, None)
        for name, reward in zip(names[: len(rewards)], rewards, strict=True)
    )


def branch(parent, step, depth=1):
    return Branch(parent, step, depth, Reflection(step, "e", parsed=True))


def tree_of(*attempts):
    tree = ExplorationTree(TASK)
    for attempt in attempts:
        tree.add(attempt)
    return tree


def names(path):
    return "".join(step.observation for step in path)


ROOT = Attempt(None, steps(1.0, 1.0, -2.0), Outcome.HORIZON)


def test_an_index_is_the_place_in_the_queue():
    tree = ExplorationTree(TASK)
    assert [tree.add(ROOT), tree.add(Attempt(branch(0, 3), (), Outcome.POLICY_FAILURE))] == [0, 1]


def test_a_path_joins_attempts_at_their_rollback_points():
    child = Attempt(branch(0, 3), steps(0.0, 0.0, names="xy"), Outcome.HORIZON)
    of_its_own_step = Attempt(branch(1, 4, depth=2), steps(0.0, names="p"), Outcome.HORIZON)
    of_the_root_s_step = Attempt(branch(1, 2, depth=2), steps(0.0, names="q"), Outcome.HORIZON)
    tree = tree_of(ROOT, child, of_its_own_step, of_the_root_s_step)

    assert [names(tree.path(index)) for index in range(4)] == ["abc", "abxy", "abxp", "aq"]
    assert [(index, b.parent, b.step) for index, b in tree.branches()] == [(1, 0, 3), (2, 1, 4), (3, 1, 2)]
    assert [attempt.depth for attempt in tree.attempts] == [0, 1, 2, 2]


@pytest.mark.parametrize(("parent", "step"), [(0, 0), (0, 4), (0, -1), (1, 1), (7, 1)])
def test_a_rollback_point_must_be_in_the_tree(parent, step):
    tree = tree_of(ROOT)
    with pytest.raises(ValueError, match=f"attempt {parent} has no step {step}"):
        tree.add(Attempt(branch(parent, step), (), Outcome.HORIZON))
    assert len(tree.attempts) == 1


def test_returns_and_the_best_of_them_are_of_the_whole_path():
    tree = tree_of(
        ROOT,
        Attempt(branch(0, 2), steps(-1.0, 0.5), Outcome.HORIZON),
        Attempt(branch(0, 2), (), Outcome.ENVIRONMENT_FAILURE),
    )
    assert [tree.total_return(index) for index in range(3)] == [0.0, 0.5, 1.0]
    assert [tree.best_return(index) for index in range(3)] == [2.0, 1.0, float("-inf")]


class TestImproved:
    @pytest.mark.parametrize(
        ("rewards", "improved"),
        [((1.5,), True), ((1.5, -9.0), True), ((1.0,), False), ((-2.0,), False), ((0.0, 0.0), False)],
    )
    def test_means_a_better_best_return_than_the_parent_s(self, rewards, improved):
        tree = tree_of(ROOT, Attempt(branch(0, 2), steps(*rewards), Outcome.FAILURE))
        assert tree.improved(1) is improved

    def test_compares_with_the_attempt_that_was_left_and_not_with_the_root(self):
        worse = Attempt(branch(0, 2), steps(-1.0), Outcome.FAILURE)
        middling = Attempt(branch(1, 2, depth=2), steps(0.5), Outcome.FAILURE)
        tree = tree_of(ROOT, worse, middling)
        assert [tree.improved(index) for index in range(3)] == [False, False, True]

    def test_counts_the_steps_that_a_branch_shares_with_the_attempt_it_left(self):
        # The last branch replaces a step that passed half of the tests by one that passes a quarter.
        root = Attempt(None, steps(0.5, -0.5), Outcome.HORIZON)
        later = Attempt(branch(0, 2), steps(-0.5), Outcome.HORIZON)
        tree = tree_of(root, later, Attempt(branch(1, 1, depth=2), steps(0.25), Outcome.HORIZON))
        assert [tree.best_return(index) for index in range(3)] == [0.5, 0.5, 0.25]
        assert not tree.improved(1) and not tree.improved(2)

    def test_is_false_for_roots_and_unscored_attempts(self):
        tree = tree_of(ROOT, *(Attempt(branch(0, 1), steps(9.0), outcome) for outcome in Outcome))
        improved = {tree.attempts[index].outcome for index in range(1, 7) if tree.improved(index)}
        assert improved == {Outcome.SUCCESS, Outcome.FAILURE, Outcome.HORIZON}
        assert not tree.improved(0)

    def test_ignores_rounding_errors(self):
        # Both pass six of nine tests, the branch by way of one: the increments add up to more than 6/9.
        tree = tree_of(
            Attempt(None, steps(6 / 9), Outcome.FAILURE),
            Attempt(branch(0, 1), steps(1 / 9, 6 / 9 - 1 / 9), Outcome.FAILURE),
        )
        assert tree.best_return(1) > tree.best_return(0)
        assert not tree.improved(1)


def test_log_probs_come_one_for_each_token():
    assert Turn("R", (82, 4), (-0.1, -0.2)).log_probs == (-0.1, -0.2)
    with pytest.raises(ValueError, match="2 tokens came with 1 log-probs"):
        Turn("R", (82, 4), (-0.1,))
