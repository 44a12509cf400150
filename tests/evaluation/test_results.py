"""What is read of an evaluation, what resuming still lacks, and what a killed process leaves behind."""

import pytest

from evaluation.stores import append, attempt, task, write_store, write_trees
from leafe_verl.core import ExplorationTree, Outcome
from leafe_verl.evaluation.results import missing_attempts, read_evaluation, successes_by_task, total_counts
from leafe_verl.trees import Provenance, TreeWriter, read_rows, read_trees
from leafe_verl.trees.writer import COMPACTED


def test_a_plain_attempt_is_a_tree_of_one_without_tokens(tmp_path):
    ((tree, provenance),) = read_trees(write_store(tmp_path, {"a": "+"}))
    (step,) = tree.attempts[0].steps
    assert (tree.task, step.action.text, step.observation, step.reward) == (task("a"), "go", "seen", 0.5)
    assert step.history.messages == ({"role": "user", "content": "Go."},)
    assert (step.action.token_ids, step.history.token_ids, provenance.has_tokens) == ((), (), False)
    ((_, row),) = read_rows(tmp_path)
    assert row["attempts"][0]["steps"][0]["action"] == {"text": "go", "num_tokens": 3, "complete": True}
    (found,) = read_evaluation(tmp_path)
    assert (found.task_key, found.scored, found.solved) == ("a", True, True)
    assert [found.counts[name] for name in ("attempts", "environment_steps", "sampled_tokens")] == [1, 1, 3]


def test_a_tree_keeps_its_branches_and_reflections(tmp_path):
    ((tree, _),) = read_trees(write_trees(tmp_path, {"a": "-+"}))
    assert [each.outcome for each in tree.attempts] == [Outcome.FAILURE, Outcome.SUCCESS]
    branch = tree.attempts[1].branch
    assert branch and (branch.parent, branch.step, branch.depth, branch.reflection.experience) == (
        0,
        1,
        1,
        "Turn left.",
    )
    (found,) = read_evaluation(tmp_path)
    assert found.solved and found.counts["branches_succeeded"] == 1


def test_text_that_utf8_cannot_hold_is_kept(tmp_path):
    tree = ExplorationTree(task("a \ud83d"))
    tree.add(attempt(Outcome.FAILURE, text="lone \ud83d, line\u2028break"))
    append(TreeWriter(tmp_path), tree)
    ((read, _),) = read_trees(tmp_path)
    assert read.attempts[0].steps[0].action.text == "lone \ud83d, line\u2028break"
    assert [each.task_key for each in read_evaluation(tmp_path)] == ["a \ud83d"]


def test_every_process_writes_a_file_of_its_own(tmp_path):
    write_store(write_store(tmp_path, {"a": "+"}), {"a": "-", "b": "+"})
    assert len(list(tmp_path.glob("trees-*.arrow"))) == 2
    assert len(read_evaluation(tmp_path)) == 3


def test_unscored_attempts_are_kept_apart_and_tried_again(tmp_path):
    trees = read_evaluation(write_store(tmp_path, {"a": "+-?", "b": "??", "c": "h+-+"}))
    assert successes_by_task(trees) == {"a": [True, False], "c": [False, True, False, True]}
    assert missing_attempts(trees, ["a", "b", "c", "d"], 4) == {"a": 2, "b": 4, "d": 4}
    counts = total_counts(trees)
    assert (counts["attempts"], counts["attempts_scored"], counts["outcome/environment_failure"]) == (9, 6, 3)


def test_a_higher_number_of_attempts_extends(tmp_path):
    trees = read_evaluation(write_store(tmp_path, {"a": "+-+-", "b": "++++"}))
    assert missing_attempts(trees, ["a", "b"], 4) == {}
    assert missing_attempts(trees, ["a", "b"], 3) == {}
    assert missing_attempts(trees, ["a", "b"], 6) == {"a": 2, "b": 2}


def test_a_tree_cut_short_is_skipped_with_a_warning(tmp_path, caplog):
    write_store(tmp_path, {"a": "+-"})
    (path,) = tmp_path.glob("trees-*.arrow")
    path.write_bytes(path.read_bytes()[:-40])
    trees = read_evaluation(str(tmp_path))
    assert f"{path}: unreadable from byte" in caplog.text
    assert [tree.solved for tree in trees] == [True]
    assert missing_attempts(trees, ["a"], 2) == {"a": 1}


def test_many_attempts_take_little_more_space_than_their_text(tmp_path):
    outcomes = "+-?h" * (COMPACTED // 2)  # twice as many as share a record batch
    write_store(tmp_path / "many", {"a": outcomes, "b": "+"})
    write_store(tmp_path / "few", {"a": outcomes[:4]})
    (many,), (few,) = (list((tmp_path / name).glob("trees-*")) for name in ("many", "few"))
    assert len(read_evaluation(tmp_path / "many")) == len(outcomes) + 1
    assert successes_by_task(read_evaluation(tmp_path / "many"))["a"] == [o == "+" for o in outcomes if o != "?"]
    assert many.stat().st_size < 4 * few.stat().st_size


def test_trees_of_training_are_not_results(tmp_path):
    tree = ExplorationTree(task("a"))
    tree.add(attempt(Outcome.SUCCESS))
    with TreeWriter(tmp_path) as writer:
        writer.append(tree, Provenance(step=1))
    with pytest.raises(ValueError, match=r"trees-.*: a tree without counts; expected those that leafe-verl evaluate"):
        read_evaluation(tmp_path)


def test_a_folder_without_attempts_holds_none(tmp_path):
    assert read_evaluation(tmp_path / "nowhere") == []


def test_a_batch_that_cannot_be_merged_loses_nothing(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError("no space left on device")

    tree = ExplorationTree(task("a"))
    tree.add(attempt(Outcome.SUCCESS))
    writer = TreeWriter(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("leafe_verl.trees.writer.os.replace", full)
        for _ in range(COMPACTED):
            append(writer, tree)
    assert "the last trees stay in batches of one (no space left on device)" in caplog.text
    assert len(list(tmp_path.glob("*.part"))) == 1, "as a killed process leaves it"
    assert len(read_evaluation(tmp_path)) == COMPACTED
    for _ in range(COMPACTED + 1):
        append(writer, tree)
    assert len(read_evaluation(tmp_path)) == 2 * COMPACTED + 1
    assert not list(tmp_path.glob("*.part"))
