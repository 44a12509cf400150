"""The figures of recovery with intervals, paired differences, and evaluations that cannot have them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from evaluation.stores import MANIFEST, make_old, write_judged, write_store
from leafe_verl.evaluation.bootstrap import Ratio, bootstrap_ratio
from leafe_verl.evaluation.compare import compare
from leafe_verl.evaluation.recovery import (
    ABOVE_FRESH,
    count_failures,
    recovery_differences,
    recovery_estimates,
    recovery_rows,
)
from leafe_verl.evaluation.report import render_evaluation
from leafe_verl.evaluation.results import read_evaluation, recovery_counts

BASE = {"a": ["aah", "abh", "a+"], "b": ["aah", "ab+"], "c": ["a+", "b+"], "d": ["ab?", "abh"]}
"""Five failures, one of them recovered, two turns repeated. Fresh samples: 1 of 2 for both of a, 0 for both of b; d has
one scored attempt, and so none to compare with."""


def counts(folder, tasks=BASE):
    return recovery_counts(read_evaluation(write_judged(folder, tasks)))


def test_figures_are_ratios_of_sums_over_tasks(tmp_path):
    tasks = counts(tmp_path)
    found = recovery_estimates(tasks)
    assert {name: (pytest.approx(e.mean), e.tasks) for name, e in found.items()} == {
        "recovery": (1 / 5, 3),
        "recovery_fresh": ((1 / 2 + 1 / 2 + 0 + 0) / 4, 2),
        "repeat": (2 / 5, 3),
        "first_turn": (3 / 8, 4),
        "recovery_1": (1 / 5, 3),
        "recovery_fresh_1": (1 / 4, 2),
        # Over the tasks where a fresh sample is known: 1 of 4, as many as fresh samples solve.
        ABOVE_FRESH: (0, 2),
    }
    assert count_failures(tasks) == 5


def test_an_evaluation_without_failures_has_no_recovery(tmp_path):
    tasks = counts(tmp_path, {"a": ["a+", "b+"], "b": ["ah"]})
    assert {name: e.mean for name, e in recovery_estimates(tasks).items()} == {"first_turn": pytest.approx(2 / 3)}
    assert count_failures(tasks) == 0
    assert recovery_rows(recovery_estimates(tasks))[0] == ("recovery", "–", "", "")


def test_a_difference_is_of_the_tasks_that_both_have(tmp_path):
    ours = {"b": ["ab+", "ab+"], "c": ["ab+", "a+"], "z": ["abh", "abh"]}
    base = counts(tmp_path / "base")
    found = recovery_differences(counts(tmp_path / "ours", ours), base)
    # Ours: 3 of 3 failures of b and c; theirs: 1 of 2. First turns: 1 of 4, and 2 of 4.
    assert {name: e.mean for name, e in found.items()} == {
        "recovery": 0.5,
        "recovery_fresh": pytest.approx((0 + 0 + 1) / 3 - 0),
        "repeat": -0.5,
        "first_turn": -0.25,
    }
    assert {(e.mean, e.low, e.high) for e in recovery_differences(base, base).values()} == {(0, 0, 0)}


def test_a_ratio_equals_numpy_by_hand():
    parts, wholes = np.array([1.0, 0, 2, 0]), np.array([2.0, 1, 2, 0])
    draws = np.random.default_rng(3).integers(4, size=(1000, 4))
    with np.errstate(invalid="ignore"):
        ratios = parts[draws].sum(axis=1) / wholes[draws].sum(axis=1)
    low, high = np.nanpercentile(ratios, [2.5, 97.5])
    found = bootstrap_ratio(Ratio(parts, wholes), resamples=1000, seed=3)
    assert np.isnan(ratios).any(), "the last task alone says nothing"
    assert (found.mean, found.low, found.high, found.tasks) == (0.6, pytest.approx(low), pytest.approx(high), 3)


def test_a_ratio_covers_the_truth_about_as_often_as_it_says():
    draw, covered = np.random.default_rng(1), 0
    for _ in range(300):
        wholes = draw.integers(0, 9, size=60)
        found = bootstrap_ratio(Ratio(draw.binomial(wholes, 0.2), wholes), resamples=500)
        covered += found.low <= 0.2 <= found.high
    assert 0.9 <= covered / 300 <= 0.98


def test_a_ratio_of_nothing_is_unknown():
    nothing, something = Ratio([0.0], [0.0]), Ratio([1.0], [2.0])
    assert bootstrap_ratio(nothing) is bootstrap_ratio(Ratio([], [])) is None
    assert bootstrap_ratio(something, minus=nothing) is bootstrap_ratio(nothing, minus=something) is None


def rows(text):
    return [line.split() for line in text.splitlines()]


def test_evaluate_prints_recovery_below_pass_at_k(tmp_path):
    found = rows(render_evaluation(MANIFEST, read_evaluation(write_judged(tmp_path, BASE))))
    assert ["recovery", "20.0", "0.0", "to", "50.0", "3"] in found
    assert ["fresh", "sample", "25.0", "0.0", "to", "50.0", "2"] in found
    places = [i for i, row in enumerate(found) if row and row[0] in ("Pass@1", "recovery")]
    assert places == [places[0], places[0] + 1]
    assert ["went", "on", "after", "a", "failed", "turn", "5"] in found
    assert not [row for row in found if row[:1] == ["after"]], "one turn has no figures of its own"


def test_recovery_by_turn_is_shown_where_several_turns_failed(tmp_path):
    found = rows(render_evaluation(MANIFEST, read_evaluation(write_judged(tmp_path, {"a": ["abch", "abc+", "a+"]}))))
    assert ["after", "a", "failed", "turn", "1", "50.0", "50.0", "to", "50.0", "1"] in found
    assert ["after", "a", "failed", "turn", "2", "50.0", "50.0", "to", "50.0", "1"] in found


def test_an_earlier_version_s_evaluation_shows_dashes_and_no_zero(tmp_path):
    store = make_old(write_judged(tmp_path, BASE))
    found = rows(render_evaluation(MANIFEST, read_evaluation(store)))
    assert {("recovery", "–"), ("fresh", "sample", "–"), ("repeated", "turns", "–")} <= {tuple(row) for row in found}
    assert ["went", "on", "after", "a", "failed", "turn", "–"] in found


@pytest.fixture
def compared(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed; the extra `plots` has it")
    pytest.importorskip("plotext", reason="plotext is not installed; the extra `plots` has it")
    stores = {
        "base": write_judged(tmp_path / "base", BASE),
        "better": write_judged(tmp_path / "better", {"a": ["ab+", "ab+"], "b": ["ab+", "abh"]}),
        "old": make_old(write_store(tmp_path / "old", {"a": "+-", "b": "-+"})),
    }
    compare(stores, tmp_path / "made")
    (found,) = json.loads((tmp_path / "made.json").read_text())["comparisons"]
    return found, capsys.readouterr().out, (tmp_path / "made.md").read_text()


def test_compare_has_recovery_and_its_differences(compared):
    found, shown, file = compared
    assert found["failures"] == {"base": 5, "better": 4, "old": None}
    assert found["recovery"]["better"]["recovery"]["mean"] == 0.75
    assert found["recovery"]["better"][ABOVE_FRESH]["mean"] == 0.75
    # On a and b: 3 of 4, and 1 of 4.
    assert found["recovery_differences"]["better"]["recovery"]["mean"] == 0.5
    assert found["recovery"]["old"] == found["recovery_differences"]["old"] == {}
    for text in (shown, file):
        assert "Recovery, % (95 % interval over tasks)" in text
        assert "Recovery, difference to base, points (95 % interval over shared tasks)" in text
    assert "| run | recovery | fresh sample | above fresh | repeated turns | first turn | failures |" in file
    assert "| old | – | – | – | – | – | – |" in file and "| old | – | – | – | – |" in file
    assert "old: 4 trees of an earlier version are not in the figures of recovery" in shown
