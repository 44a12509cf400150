"""Which branch tells most, and what is told of it."""

from fakes import turn
from leafe_verl.core import Attempt, Branch, ExplorationTree, History, Outcome, Reflection, StepRecord, Task
from leafe_verl.trees.picture import AttemptShape, build_shape
from leafe_verl.trees.telling import TEXT_CHARACTERS, TellingBranch, most_telling, telling_branch
from report.samples import LONG_LINE, hostile, rescued


def step(action, reward):
    return StepRecord(History((1,), ()), turn(action), "seen", reward, False, None)


def branched(*ends, key="a"):
    """A root of return 0 and a branch for each (return, outcome)."""
    tree = ExplorationTree(Task(key, "Do it.", "corridor"))
    tree.add(Attempt(None, (step("failed", 0.0),), Outcome.HORIZON))
    for number, (value, outcome) in enumerate(ends):
        looked = Reflection(1, f"experience {number}", parsed=True)
        steps = (step(f"revised {number}", value),) if value is not None else ()
        tree.add(Attempt(Branch(0, 1, 1, looked), steps, outcome))
    return tree


def test_a_branch_says_what_was_blamed_written_done_and_won():
    told = telling_branch(rescued("corridor-3", "do not jump"))
    assert (told.task_key, told.attempt, told.branch, told.step) == ("corridor-3", 0, 1, 2)
    assert (told.experience, told.failed_action, told.revised_action) == ("do not jump", "J", "R")
    assert (told.before, told.after, told.improved, told.parsed) == (1, 3, True, True)


def test_what_won_most_is_told():
    ends = [(0.25, Outcome.HORIZON), (0.75, Outcome.HORIZON), (0.5, Outcome.HORIZON)]
    assert telling_branch(branched(*ends)).experience == "experience 1"


def test_what_no_root_could_do_tells_more():
    rescue, repetition = branched((1.0, Outcome.SUCCESS), key="b"), branched((1.0, Outcome.SUCCESS), key="a")
    repetition.add(Attempt(None, (step("right", 1.0),), Outcome.SUCCESS))
    told = most_telling([telling_branch(repetition), telling_branch(rescue)], 2)
    assert [each.task_key for each in told] == ["b", "a"]


def test_unscored_branches_and_those_without_a_step_tell_nothing():
    assert telling_branch(branched((1.0, Outcome.POLICY_FAILURE), (None, Outcome.HORIZON))) is None
    assert telling_branch(branched()) is None


def test_the_most_telling_come_first_whatever_the_order():
    returns = [("a", 0), ("b", 1), ("c", 0.5), ("d", 1)]
    told = [telling_branch(branched((value, Outcome.HORIZON), key=key)) for key, value in returns]
    chosen = [each.task_key for each in most_telling(told, 3)]
    assert chosen == [each.task_key for each in most_telling(reversed(told), 3)] == ["b", "d", "c"]
    assert most_telling(told, 0) == []


def test_long_texts_are_cut():
    told = telling_branch(hostile(LONG_LINE))
    assert len(told.experience) == len(told.failed_action) == len(told.task_key) == TEXT_CHARACTERS


def test_plain_values_make_the_branch_again():
    told = telling_branch(rescued())
    assert TellingBranch.from_mapping(told.as_mapping()) == told


def test_the_shape_of_a_tree():
    assert build_shape(rescued()) == [
        AttemptShape(None, 1, [1, 0, 0, 0], [False, False, False, False], "horizon"),
        AttemptShape(0, 2, [2, 3], [False, False], "success"),
    ]
