"""What a run says that it does, from the process that writes it to those that read it."""

import json

import pytest

from leafe_verl import activity
from leafe_verl.activity import ENDED, FILE, Activity, ActivityFile, read_activity


def test_what_is_written_is_read(tmp_path):
    file = ActivityFile(tmp_path)
    file.start()
    file.plan(5)
    file.begin("collecting", step=2, total=16, unit="tasks", detail="a detail")
    found = read_activity(tmp_path)
    assert (found.name, found.step, found.steps, found.done, found.total) == ("collecting", 2, 5, 0, 16)
    assert (found.unit, found.detail, found.over) == ("tasks", "a detail", False)
    assert found.began == found.step_began > 0


def test_a_phase_of_the_same_step_keeps_the_beginning_of_the_step(tmp_path, monkeypatch):
    file = ActivityFile(tmp_path)
    for now, name, step in ((10.0, "collecting", 1), (20.0, "distilling", 1), (30.0, "collecting", 2)):
        monkeypatch.setattr(activity.time, "time", lambda now=now: now)
        file.begin(name, step=step)
        found = read_activity(tmp_path)
        assert (found.began, found.step_began) == (now, 30.0 if step == 2 else 10.0)


def test_another_process_goes_on_counting(tmp_path):
    ActivityFile(tmp_path).begin("distilling", step=1, total=2, unit="updates")
    worker = ActivityFile(tmp_path)
    worker.advance(2)
    assert read_activity(tmp_path) == worker._activity and read_activity(tmp_path).done == 2


def test_counts_are_written_at_intervals_and_at_the_end(tmp_path):
    file = ActivityFile(tmp_path)
    file.begin("collecting", step=1, total=3)
    seen = []
    for done in (1, 2, 3):
        file.advance(done)
        seen.append(read_activity(tmp_path).done)
    assert seen == [0, 0, 3]


def test_an_end_is_over(tmp_path):
    ActivityFile(tmp_path).begin("validating", step=3, total=8, unit="tasks")
    ActivityFile(tmp_path).end(ENDED)
    found = read_activity(tmp_path)
    assert (found.name, found.step, found.total, found.over) == (ENDED, 3, None, True)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "collecting", "unknown": 1}', '{"step": 1}'])
def test_a_file_of_another_version_counts_as_none(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    assert read_activity(tmp_path) is None


def test_a_folder_that_takes_no_file_is_no_error(tmp_path):
    file = ActivityFile(tmp_path / "missing")
    file.begin("collecting", step=1)
    assert read_activity(tmp_path / "missing") is None


def test_nothing_is_left_beside_the_file(tmp_path):
    ActivityFile(tmp_path).start()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert json.loads((tmp_path / FILE).read_text())["name"] == "starting"


@pytest.mark.parametrize("done, left", [(0, None), (2, None), (4, None), (5, 95.0 / 3 * 5), (52, 48.0 / 50 * 5)])
def test_the_time_left_is_told_by_what_was_done_since_the_first_count(done, left):
    found = Activity("collecting", done=done, total=100, began=1.0, first_done=2, first_counted=10.0)
    assert found.seconds_left(15.0) == pytest.approx(left)


def test_the_first_count_is_kept(tmp_path):
    file = ActivityFile(tmp_path)
    file.begin("distilling", step=1, total=3, unit="updates")
    for done in (1, 2, 3):
        file.advance(done)
    found = read_activity(tmp_path)
    assert (found.first_done, found.done) == (1, 3) and found.first_counted >= found.began
    file.begin("distilling", step=2, total=3, unit="updates")
    assert read_activity(tmp_path).first_done == 0


def test_what_is_not_counted_has_no_time_left():
    assert Activity("training", done=3).seconds_left(15.0) is None
