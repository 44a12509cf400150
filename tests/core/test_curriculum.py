"""Which tasks a pass holds: weights from what is known of them, and draws that starve none."""

import random
from collections import Counter

import pytest

from leafe_verl.core.curriculum import TaskOutcomes, draw_pass, pass_share


def share(solved, attempts, floor=0.1):
    return pass_share(TaskOutcomes(attempts, solved), floor)


def test_an_unknown_task_is_in_every_pass():
    assert share(0, 0) == 1


def test_tasks_that_all_or_none_solve_are_drawn_less_and_less_down_to_the_floor():
    shares = [share(0, attempts) for attempts in (0, 4, 8, 16, 10_000)]
    assert shares == sorted(shares, reverse=True) and shares[-1] == 0.1
    assert [round(each, 2) for each in shares[1:4]] == [0.71, 0.49, 0.30]
    assert [share(attempts, attempts) for attempts in (0, 4, 8, 16, 10_000)] == shares


def test_a_task_that_is_solved_at_times_stays_in_every_pass():
    assert share(4, 8) == share(100, 200) == 1
    assert share(0, 16) < share(1, 16) < share(4, 16)


def test_a_floor_of_one_leaves_nothing_out():
    assert share(0, 1000, floor=1.0) == 1


def test_impossible_outcomes_are_refused():
    with pytest.raises(ValueError, match="3 of 2 attempts"):
        TaskOutcomes(2, 3)


def test_equal_shares_give_a_permutation_without_what_fills_no_batch():
    assert sorted(draw_pass([1.0] * 12, 4, random.Random(0))) == list(range(12))
    drawn = draw_pass([1.0] * 10, 4, random.Random(0))
    assert len(drawn) == len(set(drawn)) == 8
    assert draw_pass([1.0] * 12, 4, random.Random(0)) != draw_pass([1.0] * 12, 4, random.Random(1))


def test_a_pass_is_filled_up_to_whole_batches_and_holds_no_task_twice():
    for seed in range(50):
        drawn = draw_pass([1.0] * 3 + [0.1] * 17, 4, random.Random(seed))
        assert len(drawn) % 4 == 0 and len(drawn) == len(set(drawn)) and {0, 1, 2} <= set(drawn)


def test_every_task_comes_about_as_often_as_its_share():
    shares, passes = [1.0] * 50 + [0.2] * 50, 400
    counts = Counter(task for seed in range(passes) for task in draw_pass(shares, 1, random.Random(seed)))
    assert {counts[task] for task in range(50)} == {passes}
    assert all(0.1 < counts[task] / passes < 0.3 for task in range(50, 100))


def test_fewer_tasks_than_a_batch_are_refused():
    with pytest.raises(ValueError, match="3 tasks holds no batch of 4"):
        draw_pass([1.0] * 3, 4, random.Random(0))
