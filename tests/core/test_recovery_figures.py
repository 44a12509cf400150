"""Recovery, fresh samples and repetitions, with values computed by hand."""

from __future__ import annotations

import pytest

from fakes import ScriptedPolicy, experience_in, grow, reflection, turn
from leafe_verl.core import Attempt, ExplorationTree, History, Outcome, StepRecord, Task
from leafe_verl.core.recovery_figures import (
    NAMED_TURNS,
    PlainAttempt,
    count_recovery,
    plain_attempts,
    recovery_by_task,
    share_parts,
)
from leafe_verl.core.statistics import ratios, total

OUTCOMES = {"+": Outcome.SUCCESS, "-": Outcome.HORIZON, "!": Outcome.FAILURE, "?": Outcome.POLICY_TIMEOUT}


def step(text, failed, command=None):
    return StepRecord(History((1,), ()), turn(text), "seen", 0.0, False, None, command, failed=failed)


def judged(texts, end):
    """An attempt in which every turn is judged: all have failed, but for the last one of a success."""
    failed = [True] * len(texts)
    failed[-1] = end != "+"
    return Attempt(None, tuple(map(step, texts, failed)), OUTCOMES[end])


def tree_of(*attempts):
    tree = ExplorationTree(Task("a", "Go.", "corridor"))
    for attempt in attempts:
        tree.add(attempt)
    return tree


def counted(*attempts):
    counts = count_recovery(plain_attempts(tree_of(*attempts)))
    return {name.removeprefix("recovery/"): number for name, number in counts.items()}


def shares(*attempts):
    return ratios(count_recovery(plain_attempts(tree_of(*attempts))))


def test_what_is_kept_of_an_attempt():
    assert plain_attempts(tree_of(judged("abb", "-"))) == (PlainAttempt(False, 3, (1, 2), 1),)
    assert plain_attempts(tree_of(judged("a", "+"))) == (PlainAttempt(True, 1, (), 0),)


def test_two_turns_as_they_are_counted_by_hand():
    # Four attempts: one right at once, one that recovers, two that do not, of which one repeats itself.
    attempts = [judged("a", "+"), judged("ba", "+"), judged("bb", "-"), judged("bc", "-")]
    assert counted(*attempts) == {
        "attempts": 4, "first_turns_solved": 1, "failures": 3, "recovered": 1, "failed_turns": 3, "repeats": 1,
        "compared": 3, "fresh": pytest.approx(1), "failures_1": 3, "recovered_1": 1, "compared_1": 3,
        "fresh_1": pytest.approx(1),
    }  # fmt: skip
    third = pytest.approx(1 / 3)
    assert shares(*attempts) == {
        "recovery": third, "recovery_fresh": third, "repeat": third, "first_turn": 0.25, "recovery_1": third,
        "recovery_fresh_1": third,
    }  # fmt: skip


def test_a_fresh_sample_has_as_many_turns_as_were_left():
    # After the first of three turns two are left, in which one of the other two attempts succeeds; after the second one
    # is left, in which none does.
    counts = counted(judged("abc", "-"), judged("ab", "+"), judged("abd", "+"))
    assert (counts["failures"], counts["recovered"]) == (3, 2)
    # The first and the third see the second succeed in two turns; the second sees nobody: the third takes three.
    assert counts["fresh"] == counts["fresh_1"] == 1 / 2 + 0 + 1 / 2
    assert (counts["failures_2"], counts["recovered_2"], counts["fresh_2"]) == (2, 1, 0)


def test_an_attempt_counts_once_over_all_turns_from_its_first_failure():
    quiet_first = Attempt(None, (step("a", None), step("b", True), step("c", False)), Outcome.SUCCESS)
    counts = counted(quiet_first, judged("a", "+"))
    assert (counts["failures"], counts["recovered"], counts["fresh"]) == (1, 1, 1), (
        "one turn is left, and one is enough"
    )
    assert "failures_1" not in counts and counts["failures_2"] == 1


def test_without_a_failure_recovery_is_unknown_and_not_zero():
    assert shares(judged("a", "+"), judged("b", "+")) == {"first_turn": 1.0}
    assert counted(judged("a", "+"))["failures"] == 0


def test_a_task_of_one_attempt_has_no_fresh_sample():
    assert shares(judged("ab", "+")) == {"recovery": 1.0, "repeat": 0.0, "first_turn": 0.0, "recovery_1": 1.0}


def test_an_attempt_of_one_turn_has_nothing_to_recover_in():
    assert shares(judged("a", "-"), judged("a", "+")) == {"first_turn": 0.5}


def test_a_failed_turn_that_ended_its_attempt_is_no_failure_to_recover_from():
    ended = Attempt(None, (step("a", None), step("buy", True)), Outcome.FAILURE)
    assert plain_attempts(tree_of(ended)) == (PlainAttempt(False, 2, (), 0),)


def test_a_turn_without_a_verdict_has_not_failed_and_repeats_nothing():
    walked = Attempt(None, (step("right", None), step("right", None), step("right", False)), Outcome.SUCCESS)
    assert plain_attempts(tree_of(walked)) == (PlainAttempt(True, 3, (), 0),)


def test_unscored_attempts_are_left_out():
    assert plain_attempts(tree_of(judged("ab", "?"), judged("cd", "!"))) == (PlainAttempt(False, 2, (1,), 0),)
    assert count_recovery(plain_attempts(tree_of(judged("ab", "?")))) == {}


def test_branches_are_left_out_with_and_without_an_experience():
    def act(messages):
        return "X" if experience_in(messages) is None else "R"

    for experience in (True, False):
        policy = ScriptedPolicy(act, {4: reflection(2, "walk")})
        tree = grow(policy, budget={"depth": 1}, reflection={"experience": experience})
        assert tree.branches()
        assert plain_attempts(tree) == (PlainAttempt(False, 4, (1, 2, 3), 3),)


@pytest.mark.parametrize(
    "before, after, repeats",
    [
        (("say a", "a\n"), ("and a", "a"), 1),
        (("a", None), (" a\n", None), 1),
        (("same", "a"), ("same", "b"), 0),
        (("a", None), ("b", None), 0),
        (("", ""), ("", ""), 1),
    ],
)
def test_a_turn_repeats_what_was_executed_else_the_text(before, after, repeats):
    steps = (step(before[0], True, before[1]), step(after[0], True, after[1]))
    (found,) = plain_attempts(tree_of(Attempt(None, steps, Outcome.HORIZON)))
    assert found.repeats == repeats


def test_counts_add_up_over_tasks_and_attempts_are_grouped_by_them():
    one, other = (plain_attempts(tree_of(judged(text, end))) for text, end in (("ab", "-"), ("a", "+")))
    found = recovery_by_task([("a", one), ("b", other), ("a", other), ("c", ())])
    assert found == {"a": count_recovery([*one, *other]), "b": count_recovery(other)}
    summed = total(found.values())
    assert (summed["recovery/failures"], summed["recovery/fresh"], summed["recovery/attempts"]) == (1, 1.0, 3)


def test_only_the_first_turns_have_figures_of_their_own():
    counts = counted(judged("abcdefghijklmn", "+"))
    assert f"failures_{NAMED_TURNS}" in counts and f"failures_{NAMED_TURNS + 1}" not in counts
    parts = share_parts(f"recovery/{name}" for name in counts)
    assert parts["recovery_8"] == ("recovery/recovered_8", "recovery/failures_8")
    assert list(parts)[4:7] == ["recovery_1", "recovery_fresh_1", "recovery_2"]


def test_an_attempt_is_written_and_read():
    attempt = PlainAttempt(True, 3, (1, 2), 1)
    assert PlainAttempt.from_mapping(attempt.as_mapping()) == attempt
    plain = {"solved": True, "turns": 3, "failed": [1, 2], "repeats": 1}
    assert attempt.as_mapping() == {**plain, "unplayed": 0}
    # Evaluations of earlier versions have no number of unplayed turns, or null.
    assert PlainAttempt.from_mapping(plain) == PlainAttempt.from_mapping({**plain, "unplayed": None}) == attempt
