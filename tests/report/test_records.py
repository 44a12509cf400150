"""What the page is told of a tree."""

import json
import math

import pytest

from fakes import text_of, turn
from leafe_verl.core import Attempt, ExplorationTree, History, Outcome, StepRecord, Task, build_examples
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.report.records import COLUMNS, EXCERPT, RESULTS, build_record, build_row, classify_result
from leafe_verl.report.sources import ReportedTree
from report.samples import hostile, reported, rescued, wandered


def history_of(record, attempt, t):
    """Rebuild the history as step.js does."""
    index = find_owner(record, attempt, t)
    owner = record["attempts"][index]
    step = owner["steps"][t - owner["from"]]
    if t > owner["from"]:
        before = owner["steps"][t - 1 - owner["from"]]
        base = [*history_of(record, index, t - 1), ["assistant", before["action"]], ["user", before["feedback"]]]
    else:
        base = [] if owner["parent"] is None else history_of(record, owner["parent"], t)
    return [*base[: step["shared"]], *step["messages"]]


def find_owner(record, attempt, t):
    found = record["attempts"][attempt]
    return find_owner(record, found["parent"], t) if found["parent"] is not None and t < found["from"] else attempt


@pytest.mark.parametrize("seed", range(12))
def test_every_history_is_rebuilt(seed):
    tree = wandered(seed)
    record = json.loads(json.dumps(build_record(reported(tree))[0]))
    for attempt in range(len(tree.attempts)):
        for t, step in enumerate(tree.path(attempt), start=1):
            messages = [[message["role"], message["content"]] for message in step.history.messages]
            assert history_of(record, attempt, t) == messages


def test_a_continued_history_is_not_written_again():
    record, _ = build_record(reported(rescued()))
    assert [[len(step["messages"]) for step in attempt["steps"]] for attempt in record["attempts"]] == [
        [1, 0, 0, 0],
        [0, 0],
    ]


def test_a_rescued_attempt_at_a_glance():
    tree = rescued(experience="do not jump")
    record, tokens = build_record(reported(tree))
    root, branch = record["attempts"]
    assert (root["parent"], root["from"], root["depth"], root["reflection"], root["improved"]) == (
        None,
        1,
        0,
        None,
        False,
    )
    assert (branch["parent"], branch["from"], branch["depth"], branch["reflection"], branch["improved"]) == (
        0,
        2,
        1,
        0,
        True,
    )
    assert [step["return"] for step in branch["steps"]] == [2, 3]
    assert record["reflections"][0]["experience"] == "do not jump"
    assert text_of(sorted(tokens)) == "<end>R"


def test_trained_tokens_stand_at_the_attempt_that_sampled_them():
    record, _ = build_record(reported(rescued()))
    counterfactual, rehearsal = record["examples"]
    assert (counterfactual["kind"], counterfactual["parts"]) == ("counterfactual", [(1, 2, 0)])
    # The rehearsed path begins with a step that its parent executed.
    assert (rehearsal["kind"], rehearsal["parts"]) == ("rehearsal", [(0, 1, 0), (1, 2, 0), (1, 3, 0)])
    root, branch = record["attempts"]
    assert [text_of(step.get("tokens", [])) for step in root["steps"]] == ["R<end>", "", "", ""]
    assert [text_of(step["tokens"]) for step in branch["steps"]] == ["R<end>", "R<end>"]
    assert branch["steps"][0]["logProbs"] == [-0.5, -0.5]
    assert counterfactual["tokens"] == 2


def test_world_models_train_on_feedback():
    tree = rescued()
    examples = tuple(build_examples(tree, DistillationSettings(method="early_experience", rehearsal_share=0), seed=0))
    record, _ = build_record(ReportedTree(tree, examples))
    assert {part for _, _, part in record["examples"][0]["parts"]} == {1}
    assert text_of(record["attempts"][0]["steps"][0]["feedbackTokens"]) == "<u>1<end><a>"


def test_a_row_has_a_value_for_each_column():
    row = dict(zip(COLUMNS, build_row(reported(rescued(), 3), 0, 5, 2), strict=True))
    assert (row["attempts"], row["branches"], row["improved"], row["parsed"], row["best"]) == (2, 1, 1, 1, 3)
    assert (row["step"], row["chunk"], row["place"], RESULTS[row["result"]]) == (3, 5, 2, "after rollback")


def test_the_best_return_is_that_of_any_step():
    tree = rescued()  # the root's return goes 1, 0, 0, 0
    assert [attempt["best"] for attempt in build_record(reported(tree))[0]["attempts"]] == [1, 3]
    tree.attempts.pop()
    assert dict(zip(COLUMNS, build_row(ReportedTree(tree), 0, 0, 0), strict=True))["best"] == 1


def test_a_long_key_does_not_burden_the_list():
    tree = ExplorationTree(Task("k" * 10**6, "i" * 10**6, "corridor"))
    row = dict(zip(COLUMNS, build_row(ReportedTree(tree), 0, 0, 0), strict=True))
    assert len(row["key"]) == len(row["instruction"]) == EXCERPT
    assert build_record(ReportedTree(tree))[0]["key"] == tree.task.key


def one_step(outcome, reward=0.0):
    tree = ExplorationTree(Task("a", "Do a.", "corridor"))
    tree.add(Attempt(None, (StepRecord(History((1,), ()), turn("go"), "seen", reward, False, None),), outcome))
    return tree


@pytest.mark.parametrize(
    "outcome, result",
    [
        (Outcome.SUCCESS, "first try"),
        (Outcome.FAILURE, "unsolved"),
        (Outcome.HORIZON, "unsolved"),
        (Outcome.POLICY_FAILURE, "unscored"),
    ],
)
def test_results_of_one_attempt(outcome, result):
    assert classify_result(one_step(outcome)) == result


@pytest.mark.parametrize("reward", [math.inf, -math.inf, math.nan])
def test_a_reward_that_is_no_number_is_shown_as_absent(reward):
    record, _ = build_record(ReportedTree(one_step(Outcome.FAILURE, reward)))
    assert record["attempts"][0]["steps"][0]["reward"] is None
    json.dumps(record, allow_nan=False)


def test_hostile_text_is_kept_verbatim():
    tree = hostile()
    record, _ = build_record(reported(tree))
    text = tree.task.instruction
    assert (record["instruction"], record["reflections"][0]["text"], record["attempts"][2]["error"]) == (text,) * 3
