"""leafe-verl evaluate with verl and vLLM on a tiny random model: collect, lose a tree, extend; go on from failures."""

from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vllm is not installed; recipes/setup.sh installs it")
pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

from end_to_end.launch import evaluate, write_tasks
from end_to_end.letters import Letters
from end_to_end.tiny_model import make_tiny_model
from fakes import ScriptedPolicy, grow
from leafe_verl.core import Task
from leafe_verl.evaluation.results import missing_attempts, read_evaluation
from leafe_verl.trees import Provenance, TreeWriter, read_trees

pytestmark = pytest.mark.end_to_end


def test_what_is_missing_is_collected_and_nothing_twice(tmp_path):
    model, out = make_tiny_model(tmp_path / "model"), tmp_path / "out"
    tasks = "--tasks", write_tasks(tmp_path / "tasks.jsonl", 3)
    table = evaluate(model, tasks, out, attempts=4)
    assert "Pass@4" in table
    (first,) = out.glob("trees-*.arrow")
    assert len(read_evaluation(out)) == 12

    first.write_bytes(first.read_bytes()[:-30])  # as a killed process leaves it
    table = evaluate(model, tasks, out, attempts=6)
    assert "Pass@6" in table
    trees = read_evaluation(out)
    assert len(trees) == 18, "eleven of the first call; two more of each task, and the one that was lost"
    assert missing_attempts(trees, ["0", "1", "2"], 6) == {}

    third = evaluate(model, tasks, out, attempts=6)
    assert "lacks" not in third and "Pass@6" in third, "everything is there: verl is not started"
    assert len(list(out.glob("trees-*.arrow"))) == 2


def write_failures(store: Path) -> Path:
    """Write a store of two tasks whose only attempt fails at both turns, with the tokens of another tokenizer."""
    with TreeWriter(store) as writer:
        for key in "01":
            task = Task(key, f"word{key}", "end_to_end.letters:Letters")
            policy = ScriptedPolicy(lambda messages: "wrong" if len(messages) == 1 else "zzz")
            tree = grow(policy, Letters, task=task, budget={"depth": 0}, environment={"horizon": 2})
            writer.append(tree, Provenance(run="source", step=1, seed=0, tokenizer="another"))
    return store


def test_every_attempt_goes_on_from_a_failed_turn(tmp_path):
    model, out = make_tiny_model(tmp_path / "model"), tmp_path / "out"
    source = "--from", write_failures(tmp_path / "store")
    table = evaluate(model, source, out, attempts=2)
    assert "From the same failures: 2 histories of 2 tasks, whose turn 1 has failed" in table
    trees = [tree for tree, _ in read_trees(out)]
    assert len(trees) == 4 and all(each.scored for each in read_evaluation(out))
    for tree in trees:
        assert [step.action.text for step in tree.given] == ["wrong"]
        (attempt,) = tree.attempts
        assert 1 <= len(attempt.steps) <= 2 and attempt.replayed_steps == 1, "the horizon counts the given turn"
        said = [message["content"] for message in attempt.steps[0].history.messages]
        assert said[-2:] == ["wrong", tree.given[0].observation]
    assert "lacks" not in evaluate(model, source, out, attempts=2), "everything is there: verl is not started"
