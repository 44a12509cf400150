"""The table that a recipe prints, from metrics as verl's file logger writes them."""

import json

import pytest

from leafe_verl.evaluation.summary import count_updates, lost_steps, read_metrics, render_summary


def write(path, *records):
    path.write_text("".join(json.dumps({"step": step, "data": data}) + "\n" for step, data in records))


def test_a_resumed_run_is_one_run(tmp_path):
    write(tmp_path / "metrics-1.jsonl", (0, {"val-core/mbpp/pass@1": 0.25}), (1, {"leafe/trees": 4}))
    write(tmp_path / "metrics-2.jsonl", (1, {"leafe/trees": 5}), (2, {"leafe/trees": 6}))
    assert read_metrics(tmp_path) == {0: {"val-core/mbpp/pass@1": 0.25}, 1: {"leafe/trees": 5}, 2: {"leafe/trees": 6}}


def test_what_an_earlier_process_did_beyond_the_step_where_the_next_begins_is_no_part_of_the_run(tmp_path):
    write(tmp_path / "metrics-1.jsonl", *((step, {"leafe/trees": 4}) for step in range(1, 21)))
    write(tmp_path / "metrics-2.jsonl", (10, {"val-core/mbpp/pass@1": 0.5}), (11, {"leafe/trees": 5}))
    metrics = read_metrics(tmp_path)
    assert [*metrics] == [*range(1, 12)] and metrics[11] == {"leafe/trees": 5}
    assert metrics[10] == {"leafe/trees": 4, "val-core/mbpp/pass@1": 0.5}
    (tmp_path / "metrics-3.jsonl").touch()
    assert read_metrics(tmp_path) == metrics, "a process that has not begun yet"


def test_a_line_cut_short_is_passed_over(tmp_path):
    write(tmp_path / "metrics-1.jsonl", (1, {"leafe/trees": 4}))
    with (tmp_path / "metrics-1.jsonl").open("a") as file:
        file.write('{"step": 2, "da')
    assert list(read_metrics(tmp_path)) == [1]


def test_a_folder_without_metrics_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected metrics-"):
        read_metrics(tmp_path)


def test_before_after_and_sums():
    metrics = {
        0: {"val-core/mbpp/pass@1": 0.25, "val-core/mbpp/pass@8": 0.5, "val-aux/mbpp/unscored": 0},
        1: {"leafe/trees": 4, "leafe/branches": 7, "actor/loss": 1.0},
        2: {"leafe/trees": 4, "leafe/branches": 5, "val-core/mbpp/pass@1": 0.375, "val-core/mbpp/pass@8": 0.5},
    }
    lines = [line.split() for line in render_summary(metrics).splitlines()]
    assert ["mbpp", "Pass@1", "25.0", "%", "37.5", "%", "+12.5"] in lines
    assert ["mbpp", "Pass@8", "50.0", "%", "50.0", "%", "+0.0"] in lines
    assert ["branches", "12,", "–", "improved,", "–", "succeeded"] in lines
    assert ["training", "steps", "with", "an", "update", "1"] in lines


def test_a_run_that_explored_nothing_has_tasks_and_no_rows_of_branches():
    collected = {"leafe/trees": 4, "leafe/attempts": 32, "leafe/branches": 0, "leafe/reflections_parsed": 0}
    lines = [line.split() for line in render_summary({1: collected, 2: collected}).splitlines()]
    assert ["tasks", "8"] in lines and ["attempts", "64"] in lines
    assert not {"branches", "reflections", "counterfactual", "exploration"} & {line[0] for line in lines if line}


def test_a_step_that_trained_another_phase_alone_has_updates():
    phases = {1: {"world_model/loss": 1.0, "leafe/updates": 3}, 2: {"leafe/updates": 0}, 3: {"actor/loss": 0.1}}
    assert count_updates(phases) == 2


def test_steps_without_metrics_are_lost_from_the_run_s_first_one_on():
    trained, validated = {"leafe/trees": 1}, {"val-core/mbpp/pass@1": 0.5}
    metrics = {5: trained, 6: validated, 7: trained | validated}
    assert (lost_steps(metrics), lost_steps(metrics, 9), lost_steps({0: validated})) == ([6], [6, 8, 9], [])
    assert lost_steps({0: validated, 2: trained}) == [1]


def test_a_single_validation_is_one_column():
    table = render_summary({4: {"val-core/mbpp/pass@1": 0.5}})
    assert table.splitlines()[0].split() == ["held-out", "step", "4"]


def test_recovery_stands_below_pass_at_k_with_a_dash_where_nothing_was_counted():
    metrics = {
        0: {"val-core/mbpp/pass@1": 0.5, "val-core/mbpp/recovery": 0.01, "val-core/mbpp/first_turn": 0.25},
        1: {"leafe/trees": 4, "leafe/recovery/failures": 3, "leafe/recovery/recovered": 1, "leafe/recovery/fresh": 0.5},
        2: {"leafe/trees": 4, "leafe/recovery/failures": 2, "val-core/mbpp/pass@1": 0.5}
        | {"val-core/mbpp/recovery": 0.1, "val-core/mbpp/repeat": 0.5, "val-aux/mbpp/recovery_1": 0.1},
    }
    lines = [line.split() for line in render_summary(metrics).splitlines()]
    assert lines[3:6] == [
        ["mbpp", "recovery", "1.0", "%", "10.0", "%", "+9.0"],
        ["mbpp", "repeated", "turns", "–", "50.0", "%"],
        ["mbpp", "first", "turn", "25.0", "%", "–"],
    ]
    went_on = ["plain", "attempts", "that", "went", "on", "after", "a", "failed", "turn"]
    assert [*went_on, "5,", "1", "recovered"] in lines
    assert ["environment", "steps", "–,", "–", "replayed"] in lines
