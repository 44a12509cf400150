"""The figures of evaluations from given histories, and their comparison."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed; the extra `plots` has it")
pytest.importorskip("plotext", reason="plotext is not installed; the extra `plots` has it")

from evaluation.given_stores import played, write_given, write_source
from evaluation.stores import OUTCOMES, task, write_store
from leafe_verl.cli import main
from leafe_verl.core import ExplorationTree
from leafe_verl.core.statistics import count
from leafe_verl.evaluation.bootstrap import Ratio, bootstrap_ratio
from leafe_verl.evaluation.compare import compare
from leafe_verl.evaluation.given import beyond_fresh, estimate_measures, fresh_estimate, read_given_run, render_given
from leafe_verl.evaluation.manifest import read_manifest
from leafe_verl.evaluation.results import missing_attempts, read_evaluation
from leafe_verl.trees import Provenance, TreeWriter


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source", {"a": ["pq-", "uv-", "r+"], "b": ["xy-", "z-", "s+", "t+", "w+"]})


@pytest.fixture
def base(source, tmp_path):
    return write_given(tmp_path / "base", source, {"p": ["pp-", "ab+"], "u": ["a-", "b-"], "x": ["a-", "x-", "?"]})


@pytest.fixture
def better(source, tmp_path):
    return write_given(
        tmp_path / "better", source, {"p": ["a+", "b+"], "u": ["a+", "b-"], "x": ["a-", "b+"]}, model="better"
    )


def run(folder):
    return read_given_run(folder.name, folder, read_manifest(folder))


def test_a_figure_is_the_mean_over_failures_of_the_mean_over_a_task_s_histories(base, better):
    # Two attempts at a failed, and one at b.
    found = estimate_measures(run(base))
    means = {"next_turn": 0, "horizon": (2 * 0.25 + 0) / 3, "repeated": (2 * 0.25 + 0.5) / 3}
    assert {name: each.mean for name, each in found.items()} == pytest.approx(means)
    assert found["horizon"] == bootstrap_ratio(Ratio([2 * 0.25, 0.0], [2, 1]))
    assert estimate_measures(run(better))["next_turn"].mean == pytest.approx((2 * 0.75 + 0.5) / 3)


def test_a_fresh_first_turn_is_compared_on_the_same_tasks(base, better):
    assert fresh_estimate(run(base)).mean == pytest.approx((2 * 1 / 2 + 3 / 4) / 3)
    assert beyond_fresh(run(better)).mean == pytest.approx((2 * 0.25 - 0.25) / 3)


def test_each_failure_of_a_training_run_is_compared_with_the_policy_that_failed(tmp_path):
    source = write_source(tmp_path / "source", {})
    with TreeWriter(source) as writer:
        for number, attempts in enumerate((["pq-", "x+", "y+"], ["uv-", "wq-", "z-"]), start=1):
            tree = ExplorationTree(task("a"))
            for attempt in attempts:
                tree.add(played(attempt[:-1], OUTCOMES[attempt[-1]]))
            writer.append(tree, Provenance(run="r", step=number, seed=5), count(tree, []))
    out = write_given(tmp_path / "out", source, {"p": ["a-"], "u": ["a-"], "w": ["a-"]})
    assert run(out).fresh == {"a": pytest.approx((1 + 0 + 0) / 3)}


def test_a_fresh_first_turn_solves_what_the_policy_does(tmp_path):
    # All pairs of first turns of a policy that solves half of them, but for the pair without a failure.
    source = write_source(tmp_path / "source", {"a": ["pq-", "r+"], "b": ["r+", "uq-"], "c": ["xq-", "yq-"]})
    out = write_given(tmp_path / "out", source, {"p": ["a-"], "u": ["a-"], "x": ["a-"]})
    assert fresh_estimate(run(out)).mean == 0.5


def test_without_other_first_turns_there_is_nothing_to_compare_with(tmp_path):
    source = write_source(tmp_path / "source", {"a": ["pq-"]})
    found = run(write_given(tmp_path / "out", source, {"p": ["a+"]}))
    assert fresh_estimate(found) is None and beyond_fresh(found) is None
    assert "fresh" not in render_given(found)


def test_unscored_attempts_are_left_out_and_tried_again(base):
    trees = read_evaluation(base)
    (x,) = {tree.history_key for tree in trees if tree.task_key == "b"}
    assert missing_attempts(trees, [tree.start for tree in trees], 2) == {}
    assert missing_attempts(trees, [x], 4) == {x: 2}


def test_the_table_says_what_the_figures_are(base):
    shown = render_given(run(base))
    for text in (
        "From the same failures: 3 histories of 2 tasks, whose turn 1 has failed",
        "solved at the next turn                                   0.0    0.0 to 0.0      2",
        "solved within the horizon of 4 turns",
        "next turn repeats the failed one",
        "solved by a fresh first turn of the policy that failed",
        "replayed given steps",
    ):
        assert " ".join(text.split()) in " ".join(shown.split())
    assert "Pass@" not in shown


def test_a_replay_that_diverged_is_said(source, tmp_path, monkeypatch):
    from evaluation import stores
    from leafe_verl.core import Outcome

    monkeypatch.setitem(stores.OUTCOMES, "d", Outcome.REPLAY_DIVERGENCE)
    out = write_given(tmp_path / "out", source, {"p": ["a+", "d"]})
    assert "note: 1 attempts could not begin, because replaying the given turns showed" in render_given(run(out))


def test_an_evaluation_without_a_scored_attempt_has_no_figures(source, tmp_path):
    out = write_given(tmp_path / "out", source, {"p": ["?"]})
    assert "no scored attempt yet" in render_given(run(out))
    with pytest.raises(ValueError, match="out holds no scored attempt"):
        compare({"out": out}, tmp_path / "made")


def test_the_comparison_pairs_tasks(base, better, tmp_path, capsys):
    assert main(["compare", f"base={base}", f"better={better}", "--out", str(tmp_path / "made")]) == 0
    found = json.loads((tmp_path / "made.json").read_text())["from_same_failures"]
    assert found["estimates"]["better"]["next_turn"]["mean"] == pytest.approx(2 / 3)
    interval = bootstrap_ratio(Ratio([2 * 0.75, 0.5], [2, 1]))
    assert found["differences"]["better"]["next_turn"]["low"] == interval.low
    assert found["differences"]["better"]["repeated"]["mean"] == pytest.approx(-1 / 3)
    assert found["shared"] == {"better": 3} and found["fresh"]["mean"] == pytest.approx(7 / 12)
    shown, file = capsys.readouterr().out, (tmp_path / "made.md").read_text()
    for text in (shown, file):
        assert "From the same failures, % (95 % interval over tasks): 3 histories of 2 tasks" in text
        assert "From the same failures: difference to base, points (95 % interval; shared histories: better 3)" in text
        assert "+66.7 (50.0 to 75.0)" in text
        assert "Pass@" not in text and "evaluated differently" not in text
    assert not (tmp_path / "made.svg").exists()


def test_only_shared_histories_are_paired(base, source, tmp_path, capsys):
    partly = write_given(tmp_path / "partly", source, {"p": ["a+"]})
    compare({"base": base, "partly": partly}, tmp_path / "made")
    found = json.loads((tmp_path / "made.json").read_text())["from_same_failures"]
    assert found["differences"]["partly"]["next_turn"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "tasks": 1}
    assert "partly: 2 of 3 histories have no scored attempt and are left out" in capsys.readouterr().out


def test_attempts_from_failures_are_in_no_table_with_plain_attempts(base, tmp_path):
    plain = write_store(tmp_path / "plain", {"a": "+---", "b": "----"})
    compare({"given": base, "plain": plain}, tmp_path / "made")
    found = json.loads((tmp_path / "made.json").read_text())
    assert [list(each["estimates"]) for each in found["comparisons"]] == [["plain"]]
    assert list(found["from_same_failures"]["estimates"]) == ["given"]


def test_other_histories_are_refused(base, tmp_path):
    other = write_source(tmp_path / "other", {"a": ["pq-", "r+"]})
    with pytest.raises(
        ValueError, match=r"new goes on from other failed histories than base: 1, sha256 .* not 3, sha256"
    ):
        compare({"base": base, "new": write_given(tmp_path / "new", other, {"p": ["a+"]})}, tmp_path / "made")


def test_two_precisions_are_refused(base, source, tmp_path):
    first = write_given(tmp_path / "first", source, {"p": ["a+"]}, dtype="float32")
    second = write_given(tmp_path / "second", source, {"p": ["a+"]}, dtype="bfloat16")
    with pytest.raises(ValueError, match="different precisions: first in float32, second in bfloat16"):
        compare({"first": first, "second": second}, tmp_path / "made")


def test_another_horizon_is_noted(base, source, tmp_path, capsys):
    longer = write_given(tmp_path / "longer", source, {"p": ["a+"]}, horizon=8)
    compare({"base": base, "longer": longer}, tmp_path / "made")
    assert "longer was evaluated differently from base: horizon is 8, not 4" in capsys.readouterr().out


def test_a_plain_manifest_is_as_earlier_versions_wrote_it(base, tmp_path):
    write_store(tmp_path / "plain", {"a": "+"})
    plain = json.loads((tmp_path / "plain" / "evaluation.json").read_text())
    assert "given" not in plain
    found = read_manifest(base)
    assert (found.kind, read_manifest(tmp_path / "plain").kind) == ("given", "attempts")
    assert [text.split(" is ")[0] for text in found.differences(read_manifest(tmp_path / "plain"))] == [
        "given.fingerprint",
        "given.per_task",
        "given.seed",
        "given.turn",
    ]
