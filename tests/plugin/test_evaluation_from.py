"""leafe-verl evaluate --from around verl: what it draws, keeps, asks of verl, resumes and refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("verl", reason="verl is not installed")

from evaluation.given_stores import played, texts, write_source
from evaluation.stores import write_store
from leafe_verl.cli import main
from leafe_verl.core import ExplorationTree, Task
from leafe_verl.core.given import count_after_given
from leafe_verl.core.statistics import count
from leafe_verl.evaluation.histories import read_histories
from leafe_verl.evaluation.manifest import read_manifest
from leafe_verl.evaluation.results import read_evaluation
from leafe_verl.plugin import evaluate as verb
from leafe_verl.plugin.rollout.dataset import read_task
from leafe_verl.plugin.rollout.evaluation import validation_loop
from leafe_verl.plugin.rollout.given_histories import HISTORY_FIELD
from leafe_verl.trees import Provenance
from plugin.chat_templates import write_model
from plugin.fake_verl import FakeVerl

LETTERS = "end_to_end.letters:Letters"


class GoesOn(FakeVerl):
    """Goes on from the histories that the command line asks for."""

    def keep(self, writer, config, row, outcome):
        assert validation_loop(config.leafe.evaluation) == "record_given"
        histories = {each.history.key: each.history for each in read_histories(Path(config.leafe.evaluation.given))}
        history = histories[row["extra_info"][HISTORY_FIELD]]
        assert read_task(row["extra_info"]) == history.task
        tree = ExplorationTree(history.task, history.steps)
        tree.add(played("s", outcome, history.steps))
        provenance = Provenance(run="out", seed=history.seed, has_tokens=False)
        writer.append(tree, provenance, count(tree, []) | count_after_given(tree))


@pytest.fixture
def verl(monkeypatch):
    fake = GoesOn()
    monkeypatch.setattr(verb.subprocess, "run", fake)
    return fake


@pytest.fixture
def letters(monkeypatch):
    """The stores of these tests hold tasks of the environment `Letters`."""
    from evaluation import given_stores

    monkeypatch.setattr(given_stores, "task", lambda key: Task(key, f"Say {key}.", LETTERS))


@pytest.fixture
def source(tmp_path, letters):
    return write_source(tmp_path / "source", {"0": ["pq-", "uv-", "r+"], "1": ["xyz-", "s+"], "2": ["+"]})


@pytest.fixture
def evaluate(tmp_path, source):
    model = write_model(tmp_path / "model")

    def run(*more, source=source, environment=f"leafe.environment.name={LETTERS}"):
        given = ["--model", str(model), "--from", str(source), "--out", str(run.out), "--device", "cpu"]
        return main(["evaluate", *given, *more, environment])

    run.out = tmp_path / "out"
    return run


def test_it_goes_on_from_every_failed_history_and_plays_nothing_twice(verl, evaluate, source, capsys):
    assert evaluate("--attempts", "2") == 0
    assert len(read_evaluation(evaluate.out)) == 6
    shown = capsys.readouterr().out
    assert f"{evaluate.out} lacks 6 attempts of 3 given histories" in shown
    assert "From the same failures: 3 histories of 2 tasks, whose turn 1 has failed" in shown
    assert evaluate("--attempts", "2") == 0
    assert len(verl.calls) == 1, "everything is there: verl is not started"
    assert evaluate("--attempts", "3") == 0
    assert len(read_evaluation(evaluate.out)) == 9
    manifest = read_manifest(evaluate.out)
    assert {name: value for name, value in manifest.given.items() if name != "fingerprint"} == {
        **{"from": str(source), "turn": 1, "per_task": 4, "max_tasks": None, "seed": 0}
    }
    assert (manifest.kind, manifest.horizon, manifest.attempts, manifest.sources) == ("given", 3, 3, ())
    assert manifest.tasks.startswith("2, sha256")
    assert [call["seed"] for call in manifest.collections] == [42, 1042]


def test_the_attempts_are_eight_unless_told_otherwise(verl, evaluate):
    evaluate()
    assert verl.calls[0]["actor_rollout_ref.rollout.val_kwargs.n"] == "8"


def test_unscored_attempts_are_tried_again(verl, evaluate, capsys):
    verl.outcomes = iter("+?-")
    evaluate("--attempts", "1")
    assert "still without a score: 1; the same command tries again" in capsys.readouterr().out
    evaluate("--attempts", "1")
    assert len(read_evaluation(evaluate.out)) == 4


def test_it_goes_on_where_its_source_has_grown_or_gone(verl, evaluate, source):
    evaluate("--attempts", "1")
    write_source(source, {"0": ["new-", "other-"], "9": ["fail-"]})
    assert evaluate("--attempts", "2") == 0
    shutil.rmtree(source)
    assert evaluate("--attempts", "3") == 0
    assert len(read_evaluation(evaluate.out)) == 9


def test_a_source_may_move_and_another_one_is_refused(verl, evaluate, source, capsys, tmp_path):
    evaluate("--attempts", "1")
    moved = shutil.copytree(source, tmp_path / "moved")
    assert evaluate("--attempts", "2", source=moved) == 0
    other = write_source(tmp_path / "other", {"0": ["zz-"], "1": ["xyz-"]})
    assert evaluate("--attempts", "3", source=other) == 1
    shown = capsys.readouterr().err
    assert "given.fingerprint is '2, sha256" in shown and "choose another --out" in shown


@pytest.mark.parametrize(
    "given, said",
    [
        (["--turn", "2"], "given.turn is 2, not 1"),
        (["--histories", "1"], "given.per_task is 1, not 4"),
        (["leafe.environment.horizon=2"], "horizon is 2, not 3"),
        (["leafe.seed=1"], "given.seed is 1, not 0"),
    ],
)
def test_other_histories_or_settings_are_refused_on_the_same_store(verl, evaluate, capsys, given, said):
    evaluate("--attempts", "1")
    assert evaluate("--attempts", "1", *given) == 1
    assert said in capsys.readouterr().err
    assert len(verl.calls) == 1


def test_plain_attempts_do_not_join_those_from_failures(verl, evaluate, tmp_path, capsys):
    evaluate("--attempts", "1")
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"task_id": 0, "text": "Say 0."}\n')
    plain = ["evaluate", "--model", str(tmp_path / "model"), "--tasks", str(tasks), "--out", str(evaluate.out)]
    assert main([*plain, "--device", "cpu", f"leafe.environment.name={LETTERS}"]) == 1
    assert "given.turn is None, not 1" in capsys.readouterr().err


def test_turn_histories_and_tasks_choose(verl, evaluate, tmp_path):
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("".join(json.dumps({"task_id": key, "text": "x"}) + "\n" for key in (1, 2)))
    assert evaluate("--attempts", "1", "--turn", "2", "--tasks", str(tasks)) == 0
    kept = read_histories(evaluate.out / "histories")
    assert texts(kept) == ["xy"]
    assert kept[0].history.task.instruction == "Say 1.", "the task is the store's"


@pytest.mark.parametrize(
    "given, said",
    [
        (
            ["--turn", "3"],
            "no attempt without experience has failed at turn 3 and could go on, in the trees of 3 tasks",
        ),
        (["leafe.environment.horizon=1"], "the horizon is 1, and the given histories end with turn 1"),
        (["--loop", "explore"], "--from plays plain attempts; leave out --loop explore"),
    ],
)
def test_what_cannot_go_on_is_refused(verl, evaluate, capsys, given, said):
    assert evaluate(*given) == 1
    assert said in capsys.readouterr().err
    assert not verl.calls and not (evaluate.out / "evaluation.json").exists()


def test_tasks_that_have_no_failure_are_refused(verl, evaluate, capsys, tmp_path):
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"task_id": 2, "text": "x"}\n')
    assert evaluate("--tasks", str(tasks)) == 1
    assert "none of the tasks in --tasks has a failed history there" in capsys.readouterr().err


def test_an_environment_other_than_the_stores_is_refused(verl, evaluate, capsys):
    assert evaluate(environment="environment=sokoban") == 1
    shown = capsys.readouterr().err
    assert f"holds tasks of {LETTERS}, and leafe.environment.name is 'sokoban'; add environment={LETTERS}" in shown


def test_a_folder_without_trees_is_refused(verl, evaluate, capsys, tmp_path):
    assert evaluate(source=tmp_path / "nowhere") == 1
    assert "nowhere: no store; expected the --out of leafe-verl evaluate" in capsys.readouterr().err


def test_turn_without_a_store_is_refused(capsys, tmp_path):
    assert main(["evaluate", "--out", str(tmp_path), "--turn", "2"]) == 1
    assert "name it with --from" in capsys.readouterr().err


def test_a_killed_call_leaves_nothing_that_the_next_takes_for_its_own(verl, evaluate, source):
    (evaluate.out / "histories").mkdir(parents=True)
    write_source(evaluate.out / "histories", {"0": ["old-"]})
    (evaluate.out / "histories" / "evaluation.json").unlink()
    assert evaluate("--attempts", "1") == 0
    assert sorted(texts(read_histories(evaluate.out / "histories"))) == ["p", "u", "x"]


def test_plain_evaluations_are_asked_for_as_before(tmp_path):
    config = verb._compose(["device=cpu", "leafe.evaluation.store=kept"])
    assert config.data.given is None and validation_loop(config.leafe.evaluation) == "record_episode"
    assert dataclasses.asdict(read_manifest(write_store(tmp_path, {"a": "+"})))["given"] is None
