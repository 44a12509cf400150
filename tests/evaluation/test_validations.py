"""Outcomes of validations by task, and what is said of the change between two of them."""

import pytest

from leafe_verl.evaluation.validations import FILE, append_validation, describe_change, read_validations


def test_what_is_kept_is_read_in_the_order_of_steps(tmp_path):
    append_validation(tmp_path, 2, {"0": [True, False]})
    append_validation(tmp_path, 0, {"0": [False, False]})
    assert read_validations(tmp_path) == {0: {"0": [False, False]}, 2: {"0": [True, False]}}
    assert [*read_validations(tmp_path)] == [0, 2]


def test_a_step_that_a_resumed_run_repeats_counts_as_it_was_last(tmp_path):
    for outcome in (False, True):
        append_validation(tmp_path, 1, {"0": [outcome]})
    with (tmp_path / FILE).open("a") as file:
        file.write('\n[]\n{"step": 2}\n{"step": null, "outcomes": {}}\n{"step": 3, "outcomes": 4}\n{"step": 1, "outco')
    assert read_validations(tmp_path) == {1: {"0": [True]}}


def test_no_file_is_no_validation(tmp_path):
    assert read_validations(tmp_path) == {}


def tasks(number, before, after):
    """Return two validations in which each task has the same outcomes."""
    return {step: {str(task): outcomes for task in range(number)} for step, outcomes in ((0, before), (2, after))}


def test_a_change_of_every_task_is_beyond_chance():
    text = describe_change(tasks(32, [True, False, False, False], [True, True, False, False]))
    assert text == (
        "Pass@1 rose by 25.0 points, from 25.0 to 50.0 %, which is beyond chance "
        "(95 % interval over 32 tasks: +25.0 to +25.0). "
        "Pass@4 stayed the same, 100.0 to 100.0 % (95 % interval over 32 tasks: +0.0 to +0.0)."
    )


def test_a_change_of_few_tasks_may_be_chance():
    before = {str(task): [False] for task in range(10)}
    text = describe_change({0: before, 1: before | {"3": [True]}})
    assert text.startswith("Pass@1 rose by 10.0 points, from 0.0 to 10.0 %, which may be chance alone (95 % interval")


def test_a_fall_is_one():
    text = describe_change(tasks(9, [True], [False]))
    assert text.startswith("Pass@1 fell by 100.0 points, from 100.0 to 0.0 %, which is beyond chance")


def test_tasks_are_paired_and_unscored_attempts_leave_them_out():
    before, after = {"a": [False, False], "b": [True, True]}, {"b": [False, False], "c": [True, True], "a": [True]}
    assert "over 2 tasks" in describe_change({0: before, 1: after}).partition("). ")[0]
    assert "over 1 tasks" in describe_change({0: before, 1: after}).partition("). ")[2]


@pytest.mark.parametrize("validations", [{}, {0: {"a": [True]}}, {0: {}, 1: {}}])
def test_without_two_validations_nothing_is_said(validations):
    assert describe_change(validations) == ""
