"""A run's figures: from its metrics, else from its trees, else from its evaluation."""

from leafe_verl.core.statistics import count
from leafe_verl.report.overview import build_overview
from leafe_verl.report.sources import ReportedRun
from report.samples import METRICS, rescued


def test_figures_of_a_training_run():
    overview = build_overview(ReportedRun("leafe", [], metrics=METRICS), {})
    assert ["Pass@1, mbpp", "20.3 % → 33.6 %", "+13.3 points"] in overview["figures"]
    assert ["branches that improved", "24.8 %", "29 of 117"] in overview["figures"]
    assert ["reflections parsed", "96.7 %", "118 of 122"] in overview["figures"]
    (spent,) = overview["tables"]
    assert ["environment steps", "415"] in spent["rows"] and ["branches that improved", "29"] in spent["rows"]
    assert ["minutes in training steps", "1.5"] in spent["rows"]


def test_charts_of_a_training_run():
    passes, losses, shares = build_overview(ReportedRun("leafe", [], metrics=METRICS), {})["charts"]
    assert passes["xs"] == [1, 8]
    assert passes["series"][1] == {"label": "after (step 2)", "values": [33.6, 71.9]}
    assert losses["xs"] == [1, 2]
    # NaN, which verl may log, is a gap.
    assert losses["series"][2] == {"label": "actor/loss_rehearsal", "values": [0.5, None]}
    assert shares["series"][0] == {"label": "branches that improved", "values": [23.73, 25.86]}


def test_without_metrics_the_trees_are_counted():
    overview = build_overview(ReportedRun("store", []), count(rescued(), []))
    assert ["branches that improved", "100.0 %", "1 of 1"] in overview["figures"]
    assert ["environment steps", "6"] in overview["tables"][0]["rows"]
    assert overview["charts"] == []


def test_metrics_that_lack_counts_give_what_they_have():
    overview = build_overview(ReportedRun("grpo", [], metrics={1: {"actor/loss": 0.5, "leafe/attempts": 8}}), {})
    assert overview["figures"] == []
    assert [chart["title"] for chart in overview["charts"]] == ["Losses"]


def test_an_evaluation_has_intervals():
    results = {"a": [True, False], "b": [False, False], "c": [True, True]}
    overview = build_overview(ReportedRun("eval", [], results=results), {})
    assert overview["figures"][0] == ["Pass@1", "50.0 %", "3 tasks"]
    assert [row[0] for row in overview["tables"][0]["rows"]] == ["", "Pass@1", "Pass@2"]


def test_an_evaluation_of_trees_has_one_figure():
    overview = build_overview(ReportedRun("eval", [], results={"a": [True], "b": [False]}, explores=True), {})
    assert overview["figures"] == [["solved within the budget", "50.0 %", "2 tasks"]]
    (recovery,) = overview["tables"]
    assert ["recovery", "–", "", ""] in recovery["rows"], "an earlier version did not store what it is counted from"
