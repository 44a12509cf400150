"""Evaluations that an earlier version wrote as JSON lines are still read, and continued."""

import dataclasses

import pytest

from evaluation.stores import MANIFEST, append, attempt, task, write_manifest
from leafe_verl.cli import main
from leafe_verl.core import ExplorationTree, Outcome
from leafe_verl.evaluation.compare import compare
from leafe_verl.evaluation.results import missing_attempts, read_evaluation, successes_by_task, total_counts
from leafe_verl.report.runs import find_run
from leafe_verl.trees import TreeWriter, read_trees

COUNTS = (
    '{"outcome/success": %d, "outcome/failure": %d, "outcome/environment_failure": %d, "trees": 1, "trees_scored": %d, '
    '"solved": %d, "attempts": %d, "attempts_scored": %d, "branches": %d, "branches_scored": %d, '
    '"branches_improved": 0, "branches_succeeded": %d, "reflections": %d, "reflections_parsed": %d, '
    '"environment_steps": %d, "replayed_steps": 0, "sampled_tokens": %d}'
)
PLAIN = (
    '{"schema": 1, "key": "a", "environment": "corridor", "seed": 0, "attempts": [{"branch": null, "outcome": '
    '"success", "error": null, "return": 1.0, "success": true, "steps": [{"action": "lone \\ud83d", "observation": '
    '"1", "reward": 0.5, "error": false, "tokens": 3}, {"action": "R", "observation": "2", "reward": 0.5, "error": '
    'false, "tokens": 2}], "sampled_tokens": 5}], "reflections": [], "counts": '
    + COUNTS % (1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 2, 5)
    + "}\n"
)
UNSCORED = (
    '{"schema": 1, "key": "a", "environment": "corridor", "seed": 0, "attempts": [{"branch": null, "outcome": '
    '"environment_failure", "error": "it broke", "return": 0, "success": false, "steps": [], "sampled_tokens": 0}], '
    '"reflections": [], "counts": ' + COUNTS % (0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0) + "}\n"
)
TREE = (
    '{"schema": 1, "key": "b", "environment": "corridor", "seed": 0, "attempts": [{"branch": null, "outcome": '
    '"failure", "error": null, "return": 0.0, "success": false, "steps": [{"action": "R", "observation": "1", '
    '"reward": 0.0, "error": false, "tokens": 2}, {"action": "J", "observation": "#", "reward": 0.0, "error": true, '
    '"tokens": 2}], "sampled_tokens": 4}, {"branch": {"parent": 0, "step": 2, "depth": 1, "parsed": true, '
    '"experience": "do not jump"}, "outcome": "success", "error": null, "return": 1.0, "success": true, "steps": '
    '[{"action": "R", "observation": "2", "reward": 1.0, "error": false, "tokens": 2}], "sampled_tokens": 2}], '
    '"reflections": [{"attempt": 0, "step": 2, "experience": "do not jump", "parsed": true, "text": "{}", "tokens": '
    '7}], "counts": ' + COUNTS % (1, 1, 0, 1, 1, 2, 2, 1, 1, 1, 1, 1, 3, 13) + "}\n"
)


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "old"
    write_manifest(folder, MANIFEST)
    (folder / "attempts-host-7-01234567.jsonl").write_text(PLAIN + UNSCORED + PLAIN)
    return folder


@pytest.fixture
def explored(tmp_path):
    folder = tmp_path / "explored"
    write_manifest(folder, dataclasses.replace(MANIFEST, loop="explore"))
    (folder / "attempts-host-7-01234567.jsonl").write_text(TREE)
    return folder


def test_the_figures(store):
    trees = read_evaluation(store)
    assert successes_by_task(trees) == {"a": [True, True]}
    assert missing_attempts(trees, ["a", "b"], 3) == {"a": 1, "b": 3}
    counts = total_counts(trees)
    assert (counts["attempts"], counts["sampled_tokens"], counts["outcome/environment_failure"]) == (3, 10, 1)


def test_new_attempts_are_written_beside_old_ones(store):
    tree = ExplorationTree(task("a"))
    tree.add(attempt(Outcome.FAILURE))
    append(TreeWriter(store), tree)
    assert successes_by_task(read_evaluation(store)) == {"a": [True, True, False]}
    (reported,) = find_run(store).trees
    assert [each.outcome.value for each in reported.tree.attempts] == [
        "success",
        "environment_failure",
        "success",
        "failure",
    ]
    assert (reported.tree.task.instruction, reported.has_prompts) == ("Do a.", False)


def test_a_tree_comes_back(explored):
    ((tree, provenance),) = read_trees(explored)
    root, branch = tree.attempts
    assert (tree.task.key, tree.task.environment, provenance.seed, provenance.has_tokens) == ("b", "corridor", 0, False)
    assert branch.branch and (branch.branch.parent, branch.branch.step, branch.branch.reflection.text) == (0, 2, "{}")
    assert root.steps[0].history.messages == ()
    said = [message["content"] for message in branch.steps[0].history.messages]
    assert said == ["R", "1"] and tree.improved(1)
    assert tree.reflections[0][1].num_tokens == 7


def test_it_is_reported_and_compared(store, explored, tmp_path):
    run = find_run(explored)
    (reported,) = run.trees
    assert run.explores and len(reported.tree.attempts) == 2 and not reported.has_tokens
    assert compare({"old": store, "explored": explored}, tmp_path / "comparison") == 0
    assert "| old |" in (tmp_path / "comparison.md").read_text()


def test_the_verbs_read_it(store, explored, tmp_path, capsys):
    assert main(["trees", "list", str(store)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 trees, 2 solved"
    assert main(["trees", "show", str(store), "a"]) == 0
    assert capsys.readouterr().out.count("root: success, return 1") == 2
    assert main(["trees", "verify", str(explored)]) == 0
    assert "13 sampled tokens; 0 problems" in capsys.readouterr().out
    assert main(["trees", "merge", str(store), str(explored), "--out", str(tmp_path / "new")]) == 0
    assert "4 of 4 trees, 0 duplicates dropped" in capsys.readouterr().out
    assert read_evaluation(tmp_path / "new") == [*read_evaluation(store), *read_evaluation(explored)]
    assert [tree.task.key for tree, _ in read_trees(tmp_path / "new")] == ["a", "a", "a", "b"]


def test_a_line_cut_short_is_skipped_with_a_warning_and_repaired(store, caplog, capsys):
    (path,) = store.glob("attempts-*.jsonl")
    path.write_text(path.read_text()[:-40])
    assert len(read_evaluation(store)) == 2
    assert f"{path}: unreadable from byte" in caplog.text and "the last line was cut short" in caplog.text
    assert main(["trees", "verify", str(store), "--repair"]) == 0
    assert "cut to 2 whole trees" in capsys.readouterr().out
    assert path.read_text() == PLAIN + UNSCORED


@pytest.mark.parametrize(
    "line, said",
    [
        ("{broken\n", r"attempts-.*line 1: no record of schema 1"),
        (PLAIN.replace('"schema": 1', '"schema": 2'), "it is of schema 2"),
    ],
)
def test_other_lines_are_refused(store, line, said):
    (path,) = store.glob("attempts-*.jsonl")
    path.write_text(line + PLAIN)
    with pytest.raises(ValueError, match=said):
        read_evaluation(store)
