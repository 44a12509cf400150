"""leafe-verl evaluate around verl: what it asks of verl, what it resumes, and what it refuses."""

import json
import subprocess

import pytest

pytest.importorskip("verl", reason="verl is not installed")

from omegaconf import OmegaConf
from verl.utils.tokenizer.continuous_token_wiring import infer_continuous_token_model_family

from evaluation.stores import append, attempt
from leafe_verl.cli import main
from leafe_verl.core import ExplorationTree
from leafe_verl.evaluation.manifest import read_manifest
from leafe_verl.evaluation.results import read_evaluation
from leafe_verl.plugin import evaluate as verb
from leafe_verl.plugin.rollout.dataset import read_task
from leafe_verl.plugin.rollout.evaluation import validation_loop
from leafe_verl.plugin.rollout.task_loop import warn_once_about_model_types
from plugin.chat_templates import write_model
from plugin.fake_verl import FakeVerl

ENVIRONMENT = "leafe.environment.name=end_to_end.letters:Letters"


class PlainAttempts(FakeVerl):
    def keep(self, writer, config, row, outcome):
        tree = ExplorationTree(read_task(row["extra_info"]))
        tree.add(attempt(outcome))
        append(writer, tree)


@pytest.fixture
def verl(monkeypatch):
    fake = PlainAttempts()
    monkeypatch.setattr(verb.subprocess, "run", fake)
    return fake


@pytest.fixture
def evaluate(tmp_path):
    model = write_model(tmp_path / "model")
    tasks = tmp_path / "tasks, three.jsonl"
    tasks.write_text("".join(json.dumps({"task_id": i, "text": f"word{i}"}) + "\n" for i in range(3)))

    def run(*more, environment=ENVIRONMENT):
        given = ["--model", str(model), "--tasks", str(tasks), "--out", str(tmp_path / "out"), "--device", "cpu"]
        return main(["evaluate", *given, *more, environment])

    run.out, run.tasks = tmp_path / "out", tasks
    return run


def test_it_collects_then_extends_and_collects_nothing_twice(verl, evaluate, capsys):
    assert evaluate("--attempts", "2") == 0
    assert len(read_evaluation(evaluate.out)) == 6
    assert ["Pass@2", "100.0"] in [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert evaluate("--attempts", "2") == 0
    assert len(verl.calls) == 1, "everything is there: verl is not started"
    assert evaluate("--attempts", "5") == 0
    assert len(read_evaluation(evaluate.out)) == 15
    manifest = read_manifest(evaluate.out)
    assert manifest.attempts == 5
    assert [call["seed"] for call in manifest.collections] == [42, 1042], "the same seed would draw the same attempts"
    assert [call["actor_rollout_ref.rollout.seed"] for call in verl.calls] == ["42", "1042"]


def test_what_is_missing_alone_is_collected_after_a_kill(verl, evaluate):
    evaluate("--attempts", "2")
    (path,) = evaluate.out.glob("trees-*.arrow")
    path.write_bytes(path.read_bytes()[:-20])
    assert evaluate("--attempts", "2") == 0
    assert len(read_evaluation(evaluate.out)) == 6


def test_unscored_attempts_are_said_and_tried_again(verl, evaluate, capsys):
    verl.outcomes = iter("+?-")
    assert evaluate("--attempts", "1") == 0
    shown = capsys.readouterr().out
    assert "still without a score: 1; the same command tries again" in shown
    assert ["Pass@1", "50.0"] in [line.split()[:2] for line in shown.splitlines()]
    assert evaluate("--attempts", "1") == 0
    assert len(read_evaluation(evaluate.out)) == 4


def test_another_precision_is_refused_on_the_same_store(verl, evaluate, capsys, monkeypatch):
    monkeypatch.setenv("LEAFE_CPU_DTYPE", "float32")
    evaluate("--attempts", "1")
    assert read_manifest(evaluate.out).dtype == "float32"
    monkeypatch.setenv("LEAFE_CPU_DTYPE", "bfloat16")
    assert evaluate("--attempts", "2") == 1
    shown = capsys.readouterr().err
    assert "was computed in float32, and this run computes in bfloat16" in shown
    assert "LEAFE_CPU_DTYPE=float32 computes in that precision" in shown


@pytest.mark.parametrize(
    "given, said",
    [
        (["actor_rollout_ref.rollout.val_kwargs.temperature=1.0"], "sampling.temperature is 1.0, not 0.6"),
        (["leafe.environment.horizon=2"], "horizon is 2, not 3"),
        (["leafe.generation.max_tokens=32"], "leafe.generation.max_tokens is 32, not 256"),
        (["--max-tasks", "2"], "tasks is '2, sha256"),
        (["--loop", "explore"], "loop is 'explore', not 'episode'"),
    ],
)
def test_other_settings_are_refused_on_the_same_store(verl, evaluate, capsys, given, said):
    evaluate("--attempts", "1")
    assert evaluate("--attempts", "1", *given) == 1
    shown = capsys.readouterr().err
    assert said in shown and "choose another --out" in shown
    assert len(verl.calls) == 1


def test_bad_settings_are_refused_before_anything_is_written(verl, evaluate, capsys):
    assert evaluate("leafe.budget.depth=-1", "leafe.generation.max_tokens=0") == 1
    assert capsys.readouterr().err.count("\n- ") == 2
    assert not evaluate.out.exists() and not verl.calls


def test_a_typing_error_in_an_override_is_one_message(verl, evaluate, capsys):
    assert evaluate("leafe.environment.horison=2") == 1
    assert "horison" in capsys.readouterr().err.splitlines()[0]
    assert not evaluate.out.exists()


def test_what_is_wrong_with_an_argument_is_said_once_and_by_its_name(verl, tmp_path, capsys):
    given = ["--model", f"{tmp_path}/none", "--tasks", f"{tmp_path}/none.jsonl", "--out", f"{tmp_path}/out"]
    assert main(["evaluate", *given, "--device", "cpu"]) == 1
    err = capsys.readouterr().err
    assert err.count("none.jsonl does not exist") == 1 and "- --tasks: " in err and "in --model" in err
    assert "data." not in err and "actor_rollout_ref" not in err


def test_a_file_in_the_place_of_the_store_is_refused(verl, evaluate, capsys):
    evaluate.out.write_text("notes")
    assert evaluate("--attempts", "1") == 1
    assert f"--out {evaluate.out} is a file; expected a new folder" in capsys.readouterr().err and not verl.calls


@pytest.mark.parametrize(("chosen", "keys"), [("keep", ["any", "one"]), ("leave_out", ["one"])])
def test_tasks_with_several_right_answers_are_left_out_by_a_setting(verl, evaluate, chosen, keys):
    statements = {"one": "Add one.", "any": "If there are several answers, print any of them."}
    tests = {"input": ["1\n"], "output": ["2\n"]}
    rows = [{"name": key, "description": text, "public_tests": tests} for key, text in statements.items()]
    evaluate.tasks.write_text(json.dumps(rows), encoding="utf-8-sig")
    setting = f"leafe.environment.several_answers={chosen}"
    assert evaluate("--attempts", "1", setting, environment="environment=codecontests") == 0
    assert sorted(tree.task_key for tree in read_evaluation(evaluate.out)) == keys


def test_attempts_of_unknown_making_are_refused(verl, evaluate, capsys):
    evaluate("--attempts", "1")
    (evaluate.out / "evaluation.json").unlink()
    assert evaluate("--attempts", "1") == 1
    assert "holds attempts but no evaluation.json" in capsys.readouterr().err


def test_what_was_collected_before_verl_failed_is_shown(evaluate, monkeypatch, capsys):
    monkeypatch.setattr(verb.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 137))
    assert evaluate("--attempts", "1") == 1
    shown = capsys.readouterr().out
    assert "verl ended with status 137" in shown and "no scored attempt yet" in shown


def test_a_key_that_two_files_share_is_refused(verl, evaluate, tmp_path, capsys):
    same = tmp_path / "same.jsonl"
    same.write_text('{"task_id": 0, "text": "again"}\n')
    assert evaluate("--tasks", str(same)) == 1
    assert "both have tasks of the key '0'" in capsys.readouterr().err


def test_a_tree_a_task_with_the_attempts_as_its_budget(verl, evaluate):
    assert evaluate("--attempts", "6", "--loop", "explore", "--max-tasks", "2") == 0
    (call,) = verl.calls
    assert (call["leafe.budget.attempts"], call["actor_rollout_ref.rollout.val_kwargs.n"]) == ("6", "1")
    assert len(read_evaluation(evaluate.out)) == 2


def test_overrides_may_stand_anywhere(verl, evaluate):
    more = ["leafe.seed=3", "--attempts", "1", "+data.note=x", "--loop", "episode"]
    assert evaluate(*more, "leafe.budget.depth=1") == 0
    (call,) = verl.calls
    assert [call[key] for key in ("leafe.seed", "+data.note", "leafe.budget.depth")] == ["3", "x", "1"]


@pytest.mark.parametrize(
    "loop, store, name",
    [("episode", None, "episode"), ("episode", "kept", "record_episode"), ("explore", "kept", "record_explore")],
)
def test_the_validation_loop_is_chosen_by_the_settings(loop, store, name):
    from verl.experimental.agent_loop.agent_loop import _agent_loop_registry

    assert validation_loop(OmegaConf.create({"loop": loop, "store": store})) == name
    assert name in _agent_loop_registry


def test_verl_says_once_that_it_does_not_know_a_models_type(caplog):
    warn_once_about_model_types()
    for _ in range(3):
        infer_continuous_token_model_family(hf_model_type="nobody's")
    assert caplog.text.count("nobody's") == 1


def test_a_checkpoint_in_the_environment_is_merged_before_it_is_checked(monkeypatch, tmp_path, capsys):
    merged = write_model(tmp_path / "merged")
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"task_id": 0, "text": "word"}\n')
    monkeypatch.setenv("MODEL", str(tmp_path / "global_step_1"))
    monkeypatch.setattr(verb, "hf_folder", lambda model: str(merged))
    fake = PlainAttempts()
    monkeypatch.setattr(verb.subprocess, "run", fake)
    given = ["--tasks", str(tasks), "--out", str(tmp_path / "out"), "--device", "cpu", "--attempts", "1"]
    assert main(["evaluate", *given, ENVIRONMENT]) == 0, capsys.readouterr().err
    assert read_manifest(tmp_path / "out").model == str(merged)


def test_a_tree_has_four_roots_unless_told_otherwise(verl, evaluate):
    evaluate("--attempts", "6", "--loop", "explore")
    assert read_manifest(evaluate.out).sampling["roots"] == 4


def test_a_store_of_a_version_without_a_setting_goes_on_with_its_default(verl, evaluate):
    assert evaluate("--attempts", "6", "--loop", "explore", "leafe.reflection.reads=history") == 0
    assert "reads" not in read_manifest(evaluate.out).leafe["reflection"]
    assert evaluate("--attempts", "6", "--loop", "explore") == 0


CHANGES = (
    *("leafe.distillation.recovery_targets=4", "leafe.environment.max_characters=9000"),
    "leafe.reflection.reads=prompt",
)


@pytest.mark.parametrize("changed", CHANGES)
def test_trees_of_another_budget_or_limit_do_not_join_a_store(verl, evaluate, capsys, changed):
    assert evaluate("--attempts", "6", "--loop", "explore") == 0
    assert evaluate("--attempts", "6", "--loop", "explore", changed) == 1
    assert "choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["1", "lr=3e-5", "a, b (c)'s é", "back\\", "back\\'slash", '"', "null"])
def test_a_quoted_path_is_read_as_itself(name):
    store = verb._compose(["device=cpu", f"leafe.evaluation.store={verb._quoted(name)}"]).leafe.evaluation.store
    assert store == name
