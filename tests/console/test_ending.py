"""The commands that the end of a run gives."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from leafe_verl.console import ending
from leafe_verl.console.ending import RunChoices, again, next_commands

HYDRA = {
    "job": {"config_name": "leafe"},
    "runtime": {"choices": {"environment": "mbpp"}},
    "overrides": {"task": ["environment=mbpp", "leafe.seed=1"]},
}


def configuration(steps=2, epochs=30, collect="batch", *, stop_at="fence", tasks=-1):
    trainer = {"total_training_steps": steps, "total_epochs": epochs}
    leafe = {"schedule": {"collect": collect}, "generation": {"stop_at": stop_at}}
    return {"hydra": HYDRA, "trainer": trainer, "leafe": leafe, "data": {"val_max_samples": tasks}}


def test_going_on_needs_the_environment_variables_of_the_run(monkeypatch):
    for name in ("TRAIN_FILES", "VAL_FILES", "LEAFE_CPU_DTYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODEL", "a folder/model")
    command = again(Path("runs/1"), RunChoices.of(configuration()), "leafe.seed=2")
    assert command.startswith("MODEL='a folder/model' RUN_DIR=runs/1 bash ")
    assert command.endswith("recipes/leafe_mbpp.sh leafe.seed=2")


def test_what_was_submitted_is_submitted_again(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:24567")
    monkeypatch.setenv("LEAFE_SUBMIT", "sbatch --nodes=4 recipes/cluster/slurm.sh recipes/leafe_mbpp.sh")
    monkeypatch.setenv("MODEL", "m")
    choices = RunChoices.of(configuration())
    own = ["trainer.nnodes=4", "trainer.n_gpus_per_node=8", "leafe.seed=1"]
    command = again(Path("runs/1"), replace(choices, overrides=tuple(own)), "trainer.total_training_steps=4")
    assert "RAY_ADDRESS" not in command, "the job's cluster has ended with it"
    assert command.startswith("MODEL=m ") and command.endswith(
        "RUN_DIR=runs/1 sbatch --nodes=4 recipes/cluster/slurm.sh recipes/leafe_mbpp.sh leafe.seed=1 "
        "trainer.total_training_steps=4"
    )


@pytest.mark.parametrize(
    ("limits", "changes", "what"),
    [
        ((10, 30), "trainer.total_training_steps=20", "step 20"),
        ((10, 2), "trainer.total_training_steps=20 trainer.total_epochs=4", "step 20"),
        ((None, 2), "trainer.total_epochs=4", "epoch 4"),
        ((100, 2), "trainer.total_epochs=4", "epoch 4"),
    ],
)
def test_a_run_can_go_on_for_as_long_again_whatever_ended_it(tmp_path, limits, changes, what):
    line = {"step": 10, "data": {"training/epoch": 1}}
    (tmp_path / "metrics-1.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "checkpoints" / "global_step_10").mkdir(parents=True)
    *_, last = next_commands(tmp_path, RunChoices.of(configuration(*limits)))
    assert last.endswith(f"leafe.seed=1 {changes}   # train on, up to {what}")


def test_an_evaluation_plays_what_the_run_played(tmp_path):
    (tmp_path / "checkpoints" / "global_step_2").mkdir(parents=True)
    choices = RunChoices.of(configuration())
    given = ["environment=sokoban", "leafe.environment.horizon=4", "leafe.seed=1", "trainer.nnodes=2"]
    given += ["+data.apply_chat_template_kwargs.enable_thinking=false", "leafe.playbook.path=book.json"]
    given += ["actor_rollout_ref.rollout.val_kwargs.n=4", "actor_rollout_ref.rollout.val_kwargs.temperature=0.2"]
    (told,) = [
        line
        for line in next_commands(tmp_path, replace(choices, environment="sokoban", overrides=tuple(given)))
        if " evaluate " in line
    ]
    assert " environment=sokoban leafe.environment.horizon=4 " in told and "nnodes" not in told and "seed" not in told
    assert all(text in told for text in ("enable_thinking=false", "book.json", "val_kwargs.temperature=0.2"))
    assert "val_kwargs.n" not in told


def test_a_run_of_one_step_on_all_tasks_is_not_told_to_train_on(tmp_path):
    assert "train on" not in "\n".join(next_commands(tmp_path, RunChoices.of(configuration(collect="all"))))


def test_more_attempts_are_of_the_tasks_that_the_run_validated(tmp_path):
    (tmp_path / "checkpoints" / "global_step_2").mkdir(parents=True)
    some = "\n".join(next_commands(tmp_path, RunChoices.of(configuration(tasks=64))))
    assert "/evaluation --max-tasks 64   # more attempts" in some
    assert "--max-tasks" not in "\n".join(next_commands(tmp_path, RunChoices.of(configuration())))


def test_an_evaluation_ends_actions_as_the_run_did(tmp_path):
    (tmp_path / "checkpoints" / "global_step_2").mkdir(parents=True)
    choices = RunChoices.of(configuration(stop_at=None))
    for given in (["preset=paper"], ["leafe.generation.stop_at=null"]):
        (told,) = [
            each for each in next_commands(tmp_path, replace(choices, overrides=tuple(given))) if " evaluate " in each
        ]
        assert told.count("leafe.generation.stop_at=null") == 1


def test_a_run_that_saved_nothing_is_not_told_to_train_on(tmp_path):
    assert "train on" not in "\n".join(next_commands(tmp_path, RunChoices.of(configuration())))


def test_without_metrics_the_checkpoints_say_how_far_a_run_got(tmp_path):
    for step in (2, 10):
        (tmp_path / "checkpoints" / f"global_step_{step}").mkdir(parents=True)
    *_, last = next_commands(tmp_path, RunChoices.of(configuration(10)))
    assert last.endswith("trainer.total_training_steps=20   # train on, up to step 20")


def test_a_report_is_opened_by_what_this_machine_has(tmp_path, monkeypatch):
    (tmp_path / "report.html").touch()
    choices = RunChoices.of(configuration())
    for there, said in (["xdg-open", "open"], "xdg-open "), (["open"], "open "), ([], "leafe-verl watch "):
        monkeypatch.setattr(ending.shutil, "which", lambda name, there=there: name if name in there else None)
        first = [*next_commands(tmp_path, choices)][2]
        assert said in first and str(tmp_path) in first


def test_our_own_environment_is_known_through_a_link(tmp_path, monkeypatch):
    checkout, link = tmp_path / "checkout", tmp_path / "link"
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "leafe-verl").touch()
    link.symlink_to(checkout)
    monkeypatch.setattr(ending, "CHECKOUT", checkout)
    monkeypatch.setattr(ending.sys, "prefix", str(link / ".venv"))
    monkeypatch.setattr(ending.sys, "executable", str(link / ".venv" / "bin" / "python"))
    first = [*next_commands(tmp_path, RunChoices.of(configuration()))][2]
    assert first.strip().startswith(str(link / ".venv" / "bin" / "leafe-verl"))
