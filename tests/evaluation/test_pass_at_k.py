"""Pass@k against enumeration and Monte Carlo."""

import itertools
import random

import pytest

from leafe_verl.evaluation import ks_up_to, mean_pass_at_k, pass_at_k
from leafe_verl.evaluation.pass_at_k import common_attempts, common_ks


@pytest.mark.parametrize("n", range(1, 8))
def test_equals_the_share_of_all_subsets_that_hold_a_success(n):
    for correct, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = list(itertools.combinations([True] * correct + [False] * (n - correct), k))
        assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_agrees_with_monte_carlo_and_is_unbiased():
    draw, p, n, k = random.Random(0), 0.1, 16, 8
    runs = [pass_at_k(n, sum(draw.random() < p for _ in range(n)), k) for _ in range(20_000)]
    assert sum(runs) / len(runs) == pytest.approx(1 - (1 - p) ** k, abs=0.01)


@pytest.mark.parametrize("n, c, k", [(4, 1, 5), (4, 1, 0), (0, 0, 1), (4, 5, 1), (4, -1, 1)])
def test_impossible_counts_are_refused(n, c, k):
    with pytest.raises(ValueError, match="expected"):
        pass_at_k(n, c, k)


def test_large_numbers_do_not_overflow():
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5)


def test_ks_are_powers_of_two_and_the_number_itself():
    assert [ks_up_to(n) for n in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_a_k_that_few_tasks_can_estimate_is_left_out():
    results = {str(task): [True] * (8 if task else 7) for task in range(10)}
    assert (common_attempts(results), common_ks(results, 8)) == (8, [1, 2, 4, 8])
    results["1"] = [True] * 7
    assert (common_attempts(results), common_ks(results, 8), common_ks(results)) == (7, [1, 2, 4], [1, 2, 4, 7])
    assert (common_attempts({}), common_ks({}, 8)) == (0, [])


def test_tasks_with_too_few_scored_attempts_stay_out_of_the_mean():
    successes = {"a": [True, False], "b": [True], "c": []}
    assert mean_pass_at_k(successes, [1, 2, 4]) == {1: pytest.approx(0.75), 2: 1.0}
