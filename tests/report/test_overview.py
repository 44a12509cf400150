"""A run's figures: from its metrics, else from its trees, else from its evaluation."""

from leafe_verl.core.recovery_figures import PlainAttempt, recovery_by_task
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


FAILED, RECOVERED, RIGHT = (
    PlainAttempt(False, 3, (1, 2), 1),
    PlainAttempt(True, 3, (1, 2), 0),
    PlainAttempt(True, 1, (), 0),
)


def test_an_evaluation_shows_recovery_with_intervals_and_by_turn():
    recovery = recovery_by_task([("a", [FAILED, RECOVERED]), ("b", [RIGHT, FAILED])])
    results = {"a": [False, True], "b": [True, False]}
    overview = build_overview(ReportedRun("eval", [], results=results, recovery=recovery), {})
    assert ["recovered after a failed turn", "33.3 %", "0.0 to 50.0, 2 tasks"] in overview["figures"]
    # Of the failures of a, nobody else succeeds in two turns; of that of b, the other attempt does.
    assert ["fresh sample on these failures", "33.3 %", "0.0 to 100.0, 2 tasks"] in overview["figures"]
    (table,) = (each for each in overview["tables"] if each["title"] == "Recovery")
    assert ["recovery", "33.3", "0.0 to 50.0", "2"] in table["rows"]
    assert ["  after a failed turn 2", "33.3", "0.0 to 50.0", "2"] in table["rows"]
    (chart,) = overview["charts"]
    assert (chart["title"], chart["x"], chart["xs"]) == ("Recovery by failed turn", "failed turn", [1, 2])
    assert chart["series"] == [
        {"label": "recovery", "values": [33.33, 33.33]}, {"label": "fresh sample", "values": [33.33, 33.33]},
    ]  # fmt: skip


def test_a_training_run_shows_recovery_before_and_after_and_while_collecting():
    validated = {"val-core/mbpp/recovery": 0.01, "val-aux/mbpp/recovery_1": 0.01, "val-aux/mbpp/recovery_2": 0.0}
    later = {"val-core/mbpp/recovery": 0.1, "val-aux/mbpp/recovery_1": 0.1}
    collected = {"leafe/recovery/failures": 10, "leafe/recovery/recovered": 1, "leafe/recovery": 0.1}
    metrics = {0: METRICS[0] | validated, 1: METRICS[1] | collected, 2: METRICS[2] | collected | later}
    overview = build_overview(ReportedRun("leafe", [], metrics=metrics), {})
    assert ["recovery, mbpp", "1.0 % → 10.0 %", "+9.0 points"] in overview["figures"]
    assert ["recovered after a failed turn", "10.0 %", "2 of 20"] in overview["figures"]
    titles = [chart["title"] for chart in overview["charts"]]
    assert titles[1] == "Recovery by failed turn, held-out tasks of mbpp"
    assert overview["charts"][1]["series"] == [
        {"label": "recovery, before (step 0)", "values": [1.0, 0.0]},
        {"label": "recovery, after (step 2)", "values": [10.0, None]},
    ]
    assert titles[-1] == "Recovery in what was collected"
    assert ["plain attempts that recovered", "2"] in overview["tables"][0]["rows"]
