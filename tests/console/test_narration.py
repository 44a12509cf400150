"""A run in lines of plain text, told from what it leaves on disk."""

import pytest

from leafe_verl.activity import ENDED, FAILED, Activity
from leafe_verl.console.narration import HEARTBEATS, Narrator
from leafe_verl.report.present import describe_present, seconds_text
from leafe_verl.report.progress import Interval, Progress, RunPlan

COUNTS = {"trees": 16, "attempts": 246, "branches": 111, "branches_improved": 37, "solved": 9}


def progress(name="starting", *, step=0, done=0, metrics=None, counts=None, began=0.0, **activity):
    activity = Activity(name, step=step, steps=2, began=began, step_began=activity.pop("step_began", began), **activity)
    nothing = Interval({})
    plan = RunPlan(steps=2, trees=16)
    values = (metrics or {}, Interval(counts or {}), nothing, nothing, None, None, activity)
    return Progress("run", name, plan, done, *values)


VALIDATED = {"pass@1": 0.273, "pass@2": 0.4, "pass@8": 0.75, "recovery": 0.02, "recovery_fresh": 0.1}
BEFORE = {0: {f"val-core/mbpp/{name}": value for name, value in VALIDATED.items()}}


def test_a_step_is_told_phase_by_phase():
    looks = [
        (0, progress()),
        (60, progress("validating", total=32, unit="tasks", began=60)),
        (120, progress("collecting", step=1, total=16, unit="tasks", began=115, metrics=BEFORE)),
        (200, progress("collecting", step=1, done=0, total=16, unit="tasks", began=115, metrics=BEFORE, counts=COUNTS)),
        (251, progress("distilling", step=1, detail="17 examples", began=250, metrics=BEFORE, counts=COUNTS)),
        (290, progress("saving", step=1, began=289, metrics=BEFORE, counts=COUNTS)),
        (295, progress("sending weights", step=1, began=294, metrics=BEFORE, counts=COUNTS)),
        (300, progress("validating", step=1, total=32, unit="tasks", began=299, metrics=BEFORE, counts=COUNTS)),
        (360, progress("collecting", step=2, done=1, metrics=BEFORE | {1: {"actor/loss": 0.771}})),
    ]
    narrator = Narrator()
    assert [narrator.lines(look, now, heartbeats=False) for now, look in looks] == [
        [],
        [],
        ["before training: Pass@1 27.3 %, Pass@8 75.0 %, recovery 2.0 %"],
        [],
        ["step 1 of 2: collected 16 tasks, 246 attempts, 37 of 111 branches improved, 9 tasks solved in 2 min 15 s"],
        ["step 1 of 2: distilled 17 examples in 39 s"],
        [],
        [],
        ["step 1: loss 0.771"],
    ]


def test_what_an_earlier_process_did_is_not_news():
    assert Narrator().lines(progress(metrics=BEFORE), 0) == []


def test_a_resumed_run_tells_the_steps_that_it_repeats():
    narrator, losses = Narrator(), {step: {"actor/loss": 0.5} for step in range(1, 8)}
    assert narrator.lines(progress(done=7, metrics=losses), 0) == []
    kept = {step: losses[step] for step in range(1, 6)}
    assert narrator.lines(progress(done=5, metrics=kept), 1) == []
    assert narrator.lines(progress(done=6, metrics={**kept, 6: losses[6]}), 2) == ["step 6: loss 0.5"]


def test_heartbeats_grow_rare():
    narrator, told = Narrator(), []
    for now in range(0, 1200, 10):
        told += [now] if narrator.lines(progress("collecting", step=1, total=16, unit="tasks"), float(now)) else []
    first, second, third = HEARTBEATS
    assert told == [
        first,
        first + second,
        first + second + third,
        first + second + 2 * third,
        first + second + 3 * third,
    ]


def test_a_phase_that_ends_makes_heartbeats_no_more_frequent():
    narrator, (first, second, _) = Narrator(), HEARTBEATS
    collecting = progress("collecting", step=1, total=16, unit="tasks")
    assert not narrator.lines(collecting, 0.0) and narrator.lines(collecting, first)
    distilling = progress("distilling", step=1, total=9, unit="updates", began=first + 1)
    assert len(narrator.lines(distilling, first + 1)) == 1
    assert not narrator.lines(distilling, 2 * first + 1)
    assert narrator.lines(distilling, first + 1 + second)


@pytest.mark.parametrize("end, told", [(ENDED, 1), (FAILED, 0)])
def test_a_phase_that_the_end_cut_short_is_not_told_as_done(end, told):
    narrator = Narrator()
    narrator.lines(progress("collecting", step=1, total=16, unit="tasks"), 0)
    assert len(narrator.lines(progress(end, step=1), 5, heartbeats=False)) == told


def test_the_present_says_how_far_it_is_and_what_is_left():
    look = progress("collecting", step=1, done=0, total=16, unit="tasks", counts=COUNTS | {"trees": 4}, began=100.0)
    text = describe_present(look, 160.0)
    assert text.startswith("step 1 of 2: collecting: 0 of 16 tasks, 246 attempts, 37 of 111 branches improved")
    counted = Activity("validating", done=8, total=32, unit="tasks", first_counted=100.0)
    assert "8 of 32 tasks, about 3 min left of this phase" in describe_present(
        Progress("run", "", RunPlan(), 0, {}, *[Interval({})] * 3, None, None, counted), 160.0
    )


def test_the_time_left_of_the_run_is_told_from_the_steps_that_have_ended():
    metrics = {1: {"timing_s/step": 100.0, "timing_s/testing": 50.0}}
    look = progress("collecting", step=2, done=1, metrics=metrics, step_began=1000.0)
    assert "about 2 min left" in describe_present(look, 1030.0)
    assert "left" not in describe_present(look, 1300.0), "the step takes longer than those before"


@pytest.mark.parametrize(
    "seconds, text",
    [(-1, "0 s"), (59.4, "59 s"), (60, "1 min"), (95, "1 min 35 s"), (660, "11 min"), (9000, "2 h 30 min")],
)
def test_durations(seconds, text):
    assert seconds_text(seconds) == text
