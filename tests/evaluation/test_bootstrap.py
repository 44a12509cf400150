"""Intervals over tasks: against numpy by hand, against the normal theory, and paired."""

import numpy as np
import pytest

from leafe_verl.evaluation.bootstrap import bootstrap


def test_it_equals_numpy_by_hand():
    values = [0.0, 0.25, 0.5, 1.0]
    draws = np.random.default_rng(3).integers(4, size=(1000, 4))
    low, high = np.percentile(np.array(values)[draws].mean(axis=1), [2.5, 97.5])
    found = bootstrap(values, resamples=1000, seed=3)
    assert (found.mean, found.low, found.high, found.tasks) == (0.4375, low, high, 4)


def test_many_tasks_are_resampled_in_parts_of_the_same_draws():
    values = np.random.default_rng(0).random(700)
    found = bootstrap(values, resamples=6000)
    margin = 1.96 * values.std() / np.sqrt(len(values))
    assert (found.low, found.high) == pytest.approx((values.mean() - margin, values.mean() + margin), abs=0.002)


def test_it_covers_the_truth_about_as_often_as_it_says():
    # 60 tasks, each solved with probability 0.4: the true mean lies in about 95 of 100 intervals.
    tasks = np.random.default_rng(1).random((400, 60)) < 0.4
    intervals = [bootstrap(row, resamples=500) for row in tasks]
    covered = np.mean([interval.low <= 0.4 <= interval.high for interval in intervals])
    assert 0.91 <= covered <= 0.98


def test_equal_values_have_no_width():
    found = bootstrap([0.5] * 10)
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


def test_a_paired_difference_draws_the_same_tasks_for_both():
    ours = np.random.default_rng(2).random(50)
    shifted = bootstrap(ours + 0.1, seed=4)
    plain = bootstrap(ours, seed=4)
    assert (shifted.low - plain.low, shifted.high - plain.high) == pytest.approx((0.1, 0.1))
    # The tasks differ widely, the two runs on them always by 0.1: so does the paired difference.
    paired = bootstrap((ours + 0.1) - ours)
    assert (paired.low, paired.high) == pytest.approx((0.1, 0.1))


def test_a_wider_level_gives_a_wider_interval():
    values = np.random.default_rng(5).random(40)
    narrow, wide = bootstrap(values, level=0.5), bootstrap(values, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="no task has a value"):
        bootstrap([])
