"""Outcomes of validations by task, and what is said of the change between two of them."""

import pytest

from leafe_verl.core.recovery_figures import PlainAttempt, recovery_by_task
from leafe_verl.evaluation.validations import (
    FEW_TASKS,
    FILE,
    Validation,
    append_validation,
    describe_change,
    read_validations,
)


def test_what_is_kept_is_read_in_the_order_of_steps(tmp_path):
    last = Validation({"0": [True, False]}, {"0": {"recovery/failures": 1.0}})
    append_validation(tmp_path, 0, Validation({"0": [False, False]}))
    append_validation(tmp_path, 2, last)
    assert read_validations(tmp_path) == {0: Validation({"0": [False, False]}), 2: last}
    assert [*read_validations(tmp_path)] == [0, 2]


def test_what_a_run_found_beyond_the_step_that_it_goes_back_to_is_of_other_weights(tmp_path):
    for step in (0, 10, 20, 10):
        append_validation(tmp_path, step, Validation({"0": [True]}))
    assert [*read_validations(tmp_path)] == [0, 10]
    append_validation(tmp_path, 0, Validation({"1": [True]}))
    assert read_validations(tmp_path) == {0: Validation({"1": [True]})}, "a run that began anew"


def test_a_step_that_a_resumed_run_repeats_counts_as_it_was_last(tmp_path):
    for outcome in (False, True):
        append_validation(tmp_path, 1, Validation({"0": [outcome]}))
    with (tmp_path / FILE).open("a") as file:
        file.write('\n[]\n{"step": 2}\n{"step": null, "outcomes": {}}\n{"step": 3, "outcomes": 4}\n{"step": 1, "outco')
    assert read_validations(tmp_path) == {1: Validation({"0": [True]})}


def test_the_half_line_of_a_killed_process_takes_no_other_with_it(tmp_path):
    for step in (0, 1):
        append_validation(tmp_path, step, Validation({"0": [True]}))
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-10])
    append_validation(tmp_path, 1, Validation({"0": [False]}))
    assert read_validations(tmp_path) == {0: Validation({"0": [True]}), 1: Validation({"0": [False]})}


def test_a_line_of_an_earlier_version_has_no_recovery(tmp_path):
    (tmp_path / FILE).write_text('{"step": 1, "outcomes": {"0": [1]}}\n')
    assert read_validations(tmp_path) == {1: Validation({"0": [True]})}


def test_no_file_is_no_validation(tmp_path):
    assert read_validations(tmp_path) == {}


def tasks(number, before, after):
    """Return two validations in which each task has the same outcomes."""
    outcomes = {0: before, 2: after}
    return {step: Validation({str(task): each for task in range(number)}) for step, each in outcomes.items()}


def test_a_change_of_every_task_is_beyond_chance():
    text = describe_change(tasks(32, [True, False, False, False], [True, True, False, False]))
    assert text == (
        "Pass@1 rose by 25.0 points, from 25.0 to 50.0 %, which is beyond chance "
        "(95 % interval over 32 tasks: +25.0 to +25.0).\n"
        "Pass@4 stayed the same, 100.0 to 100.0 % (95 % interval over 32 tasks: +0.0 to +0.0)."
    )


def test_a_change_of_one_task_may_be_chance():
    before = {str(task): [False] for task in range(20)}
    text = describe_change({0: Validation(before), 1: Validation(before | {"3": [True]})})
    assert text.startswith("Pass@1 rose by 5.0 points, from 0.0 to 5.0 %, which may be chance alone (95 % interval")


@pytest.mark.parametrize(("number", "over"), [(1, "1 task:"), (FEW_TASKS - 1, "15 tasks:")])
def test_few_tasks_do_not_tell(number, over):
    text = describe_change(tasks(number, [False], [True]))
    assert "fewer than 16 tasks do not tell whether that is more than chance (95 % interval over " + over in text


def test_a_fall_is_one():
    text = describe_change(tasks(16, [True], [False]))
    assert text.startswith("Pass@1 fell by 100.0 points, from 100.0 to 0.0 %, which is beyond chance")


def test_tasks_are_paired_and_unscored_attempts_leave_them_out():
    before = {task: [True, True] for task in "abcdefghijk"}
    after = {task: [False, False] for task in "bcdefghijklm"} | {"a": [True]}
    first, _, second = describe_change({0: Validation(before), 1: Validation(after)}).partition(").\n")
    assert "over 11 tasks" in first and "over 10 tasks" in second


@pytest.mark.parametrize("validations", [{}, {0: Validation({"a": [True]})}, {0: Validation({}), 1: Validation({})}])
def test_without_two_validations_nothing_is_said(validations):
    assert describe_change(validations) == ""


def test_recovery_is_told_over_the_tasks_whose_turns_failed_both_times():
    failed, recovered = PlainAttempt(False, 2, (1,), 1), PlainAttempt(True, 2, (1,), 0)
    before = recovery_by_task((str(task), [failed, failed]) for task in range(17))
    after = recovery_by_task((str(task), [failed, recovered]) for task in range(1, 18))
    text = describe_change({0: Validation({}, before), 4: Validation({}, after)})
    assert text == (
        "Recovery rose by 50.0 points, from 0.0 to 50.0 %, which is beyond chance "
        "(95 % interval over 16 tasks: +50.0 to +50.0)."
    )
