"""What is stored comes back: trees of every shape, text of every kind."""

import dataclasses
import random

import pytest

from leafe_verl.core import Attempt, ExplorationTree, History, Outcome, StepRecord, Task, Turn, build_examples
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.core.statistics import count
from leafe_verl.trees import TreeWriter, read_trees
from leafe_verl.trees.rows import from_row, to_row
from leafe_verl.trees.text import escape, unescape
from leafe_verl.trees.verification import verify
from leafe_verl.trees.writer import COMPACTED, RecordFile
from trees.stores import provenance, rescued, wandered, write


def stored(tmp_path, *trees):
    write(tmp_path, *((tree, provenance(step)) for step, tree in enumerate(trees)))
    return [tree for tree, _ in read_trees(tmp_path)]


def bare(tree):
    """The attempts without snapshots, which are not stored."""
    return [
        dataclasses.replace(a, steps=tuple(dataclasses.replace(step, snapshot=None) for step in a.steps))
        for a in tree.attempts
    ]


def one_step(history, action, task=None, observation="seen", **fields):
    tree = ExplorationTree(task or Task("a", "Go.", "corridor"))
    tree.add(Attempt(None, (StepRecord(history, action, observation, 0.5, False, None),), Outcome.FAILURE, **fields))
    return tree


def examples_of_all(method, incomplete):
    return DistillationSettings(
        method=method,
        events="every",
        events_per_task=9,
        target="suffix",
        rehearsal_share=1.0,
        incomplete_actions=incomplete,
    )


OPENING = History((1, 2), ({"role": "user", "content": "go"},))


@pytest.mark.parametrize("method", ["leafe", "early_experience"])
def test_random_trees_come_back(tmp_path, method):
    trees = [wandered(seed, distillation={"method": method}) for seed in range(8)]
    attempts = [attempt for tree in trees for attempt in tree.attempts]
    assert max(attempt.depth for attempt in attempts) == 3
    assert {Outcome.SUCCESS, Outcome.HORIZON, Outcome.FAILURE} <= {a.outcome for a in attempts}
    assert any(attempt.out_of_context for attempt in attempts)
    assert not all(step.action.complete for attempt in attempts for step in attempt.steps)
    assert any(s.answered for attempt in attempts for s in attempt.steps) == (method == "early_experience")
    back, compared = stored(tmp_path, *trees), 0
    for tree, read in zip(trees, back, strict=True):
        assert (read.task, read.reflections) == (tree.task, tree.reflections)
        assert read.attempts == bare(tree)  # and with it every history, `previous` included
        for incomplete in (False, True):
            settings = examples_of_all(method, incomplete)
            examples = build_examples(tree, settings, seed=1)
            assert build_examples(read, settings, seed=1) == examples
            assert count(read, examples) == count(tree, examples)
            compared += len(examples)
    assert compared > 30


@pytest.mark.parametrize("method", ["leafe", "early_experience"])
@pytest.mark.parametrize("window", [0, 1, 2])
def test_examples_of_windowed_histories_come_back(tmp_path, method, window):
    context = {"window": window, "stride": 2}
    trees = [wandered(seed, distillation={"method": method}, context=context) for seed in range(4)]
    settings = examples_of_all(method, incomplete=True)
    compared = 0
    for tree, read in zip(trees, stored(tmp_path, *trees), strict=True):
        examples = build_examples(tree, settings, seed=1)
        assert build_examples(read, settings, seed=1) == examples
        compared += len(examples)
    assert compared > 10


def test_added_tokens_come_back_and_are_not_counted_as_sampled(tmp_path):
    tree = one_step(OPENING, Turn("R", (7, 8, 4), (-0.5, -0.5, 0.0), num_added=1))
    assert to_row(tree, provenance())["sampled_tokens"] == 2
    (read,) = stored(tmp_path, tree)
    assert read.attempts == tree.attempts
    assert verify(tmp_path).counts["sampled_tokens"] == count(tree, [])["sampled_tokens"] == 2


def test_a_row_of_an_earlier_version_has_no_added_tokens():
    row = to_row(one_step(OPENING, Turn("R", (7, 4))), provenance())
    for added in ({"num_added": None}, {}):
        action = row["attempts"][0]["steps"][0]["action"]
        del action["num_added"]
        action |= added
        assert from_row(row).attempts[0].steps[0].action.num_added == 0


def test_a_history_is_stored_as_what_it_adds(tmp_path):
    root, branch = to_row(rescued(), provenance())["attempts"]
    first, second = (step["history"] for step in root["steps"][:2])
    # user "0" end assistant; then, behind the action "R" end: user "1" end assistant
    assert (first["shared_tokens"], first["new_token_ids"]) == (0, [2, 48, 4, 3])
    assert (second["shared_tokens"], second["new_token_ids"]) == (6, [2, 49, 4, 3])
    assert (second["shared_messages"], second["new_messages"]) == (3, [])
    assert branch["branch"] == {"parent": 0, "step": 2, "depth": 1, "reflection": 0}
    assert (branch["steps"][0]["history"]["shared_tokens"], branch["steps"][0]["history"]["new_token_ids"]) == (10, [])


def test_a_rewritten_history_comes_back(tmp_path):
    # As a chat template makes it that drops the reasoning of earlier turns.
    tree = ExplorationTree(Task("a", "Go.", "corridor"))
    first = StepRecord(OPENING, Turn("think so", (7, 8, 9)), "seen", 0.0, False, None)
    messages = (*OPENING.messages, {"role": "assistant", "content": "so"}, {"role": "user", "content": "seen"})
    second = StepRecord(History((1, 2, 9, 5), messages), Turn("on", (6,)), "seen", 0.0, False, None)
    tree.add(Attempt(None, (first, second), Outcome.FAILURE))
    assert stored(tmp_path, tree)[0].attempts == tree.attempts


@pytest.mark.parametrize("thoughts", [0, 2])
def test_the_answer_of_a_tool_comes_back_with_what_came_before(tmp_path, thoughts):
    tree = ExplorationTree(Task("a", "Go.", "corridor"))
    first = StepRecord(OPENING, Turn("call", (7, 8, 9), num_thoughts=thoughts), "seen", 0.0, False, None)
    messages = (*OPENING.messages, {"role": "assistant", "content": "call"}, {"role": "tool", "content": "seen"})
    token_ids = (*OPENING.token_ids, *first.action.answer_ids, 5)
    answered = History(token_ids, messages, (first.history, first.action))
    tree.add(Attempt(None, (first, StepRecord(answered, Turn("on", (6,)), "", 0.0, False, None)), Outcome.FAILURE))
    assert stored(tmp_path, tree)[0].attempts == tree.attempts


@pytest.mark.parametrize("text", ["half \ud83d", "\ufdd0", "\ufdd0d83d", "\\ud83d", "\ud83d\ude00", "\0 \u2028", ""])
def test_any_text_comes_back(tmp_path, text):
    history = History((1,), ({"role": "user", "content": text},))
    task = Task(text, text, text, {"text": text, "nested": [1, 2.5, None, {"a": text}]})
    tree = one_step(history, Turn(text, (7,)), task, observation=text, error=text)
    (read,) = stored(tmp_path, tree)
    assert (read.task, read.attempts) == (tree.task, tree.attempts)


def test_escaping_loses_nothing():
    dice = random.Random(0)
    for _ in range(300):
        text = "".join(dice.choice("\ufdd0\ud800\udfffd83f0\\u") for _ in range(8))
        assert unescape(escape(text)) == text
        escape(text).encode()


@pytest.mark.parametrize("context", [{}, {"window": 1, "stride": 2}])
def test_trees_without_tokens_keep_all_else(tmp_path, context):
    trees = [wandered(seed, context=context) for seed in range(4)]
    write(tmp_path / "text", *((tree, provenance(step, has_tokens=False)) for step, tree in enumerate(trees)))
    whole = stored(tmp_path / "tokens", *trees)
    for tree, (read, where_from) in zip(whole, read_trees(str(tmp_path / "text")), strict=True):
        assert (read.task, read.reflections, where_from.has_tokens) == (tree.task, tree.reflections, False)
        for one, other in zip(tree.attempts, read.attempts, strict=True):
            assert (one.branch, one.outcome, one.error) == (other.branch, other.outcome, other.error)
            for before, after in zip(one.steps, other.steps, strict=True):
                assert after.history.messages == before.history.messages
                assert (after.history.previous is None) == (before.history.previous is None)
                assert (after.action.text, after.action.token_ids) == (before.action.text, ())
    assert verify(tmp_path / "text").problems == []


def test_a_writer_takes_trees_of_one_kind(tmp_path):
    with TreeWriter(str(tmp_path)) as writer:
        writer.append(rescued(), provenance())
        with pytest.raises(ValueError, match="must all have tokens or all have none"):
            writer.append(rescued(), provenance(has_tokens=False))


def test_trees_after_a_compaction_that_the_disk_did_not_confirm_are_in_the_file(tmp_path, monkeypatch):
    texts = provenance(has_tokens=False)
    with TreeWriter(tmp_path) as writer:
        writer.append(rescued("0"), texts)

        def fail(folder):
            raise OSError("too many open files")

        monkeypatch.setattr("leafe_verl.trees.writer.sync_folder", fail)
        for number in range(1, COMPACTED + 2):
            writer.append(rescued(str(number)), texts)
        assert [tree.task.key for tree, _ in read_trees(tmp_path)] == [str(number) for number in range(COMPACTED + 2)]


def test_a_file_that_cannot_be_begun_is_not_left_behind(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError("no space left on device")

    monkeypatch.setattr(RecordFile, "_write", full)
    writer = TreeWriter(tmp_path)
    for _ in range(2):
        with pytest.raises(OSError, match="no space left"):
            writer.append(rescued(), provenance())
    assert not [*tmp_path.iterdir()]


def test_log_probs_are_kept_to_the_bit_or_absent(tmp_path):
    trees = [one_step(OPENING, Turn("x", (7, 8), log_probs)) for log_probs in ((-0.1, -1 / 3), None)]
    found = [tree.attempts[0].steps[0].action.log_probs for tree in stored(tmp_path, *trees)]
    assert found == [(-0.1, -1 / 3), None]


@pytest.mark.parametrize("error, failed, read", [(False, None, None), (True, True, True), (False, True, True)])
def test_verdicts_come_back(tmp_path, error, failed, read):
    tree = ExplorationTree(Task("a", "Go.", "corridor"))
    step = StepRecord(OPENING, Turn("x", (7,)), "", 0.0, error, None, failed=failed)
    tree.add(Attempt(None, (step,), Outcome.FAILURE))
    assert stored(tmp_path, tree)[0].attempts[0].steps[0].failed is read


@pytest.mark.parametrize("error, failed", [(True, True), (False, None)])
def test_a_store_without_verdicts_has_those_of_its_errors(error, failed):
    tree = one_step(OPENING, Turn("x", (7,)))
    row = to_row(tree, provenance())
    step = row["attempts"][0]["steps"][0]
    step["error"] = error
    del step["failed"]
    assert from_row(row).attempts[0].steps[0].failed is failed


def test_actions_that_a_time_limit_stopped_come_back_and_are_counted(tmp_path):
    tree = ExplorationTree(Task("a", "Go.", "corridor"))
    step = StepRecord(OPENING, Turn("x", (7,)), "", 0.0, True, None, failed=True, timed_out=True)
    tree.add(Attempt(None, (step,), Outcome.FAILURE))
    assert stored(tmp_path, tree)[0].attempts[0].steps[0].timed_out
    assert count(tree, [])["timed_out_actions"] == 1
    row = to_row(tree, provenance())
    del row["attempts"][0]["steps"][0]["timed_out"]  # as in stores of earlier versions
    assert not from_row(row).attempts[0].steps[0].timed_out


def test_steps_that_were_not_played_are_kept(tmp_path):
    tree = one_step(OPENING, Turn("x", (7,)), unplayed_steps=2)
    assert stored(tmp_path, tree)[0].attempts[0].unplayed_steps == 2
    row = to_row(tree, provenance())
    del row["attempts"][0]["unplayed_steps"]  # a store of an earlier version
    assert from_row(row).attempts[0].unplayed_steps == 0


def test_what_the_form_has_no_place_for_is_refused():
    tree = rescued()
    tree.reflections.clear()
    with pytest.raises(ValueError, match="not among those of the attempt it left"):
        to_row(tree, provenance())
    odd = History((1,), ({"role": "user", "content": "go", "name": "x"},))
    with pytest.raises(ValueError, match="expected role and content only"):
        to_row(one_step(odd, Turn("x", (7,))), provenance())


def test_the_drawn_columns():
    row = to_row(rescued(), provenance())
    drawn = ["num_attempts", "num_branches", "num_improved", "num_scored", "num_solved", "solved", "best_return"]
    assert [row[name] for name in drawn] == [2, 1, 1, 2, 1, True, 3.0]
    assert row["environment_steps"] == 6
    nothing = one_step(OPENING, Turn("x", (7,)))
    nothing.attempts[0] = dataclasses.replace(nothing.attempts[0], outcome=Outcome.POLICY_FAILURE)
    assert to_row(nothing, provenance())["best_return"] is None
    assert to_row(nothing, provenance())["num_scored"] == 0
