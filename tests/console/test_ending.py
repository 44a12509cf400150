"""The commands that the end of a run gives."""

import json
from pathlib import Path

import pytest

from leafe_verl.console.ending import again, choices_of, next_commands

HYDRA = {
    "job": {"config_name": "leafe"},
    "runtime": {"choices": {"environment": "mbpp"}},
    "overrides": {"task": ["environment=mbpp", "leafe.seed=1"]},
}


def configuration(steps=2, epochs=30, collect="batch"):
    trainer = {"total_training_steps": steps, "total_epochs": epochs}
    return {"hydra": HYDRA, "trainer": trainer, "leafe": {"schedule": {"collect": collect}}}


def test_going_on_needs_the_environment_variables_of_the_run(monkeypatch):
    for name in ("TRAIN_FILES", "VAL_FILES", "LEAFE_CPU_DTYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODEL", "a folder/model")
    command = again(Path("runs/1"), choices_of(configuration()), "leafe.seed=2")
    assert command.startswith("MODEL='a folder/model' RUN_DIR=runs/1 bash ")
    assert command.endswith("recipes/leafe_mbpp.sh leafe.seed=2")


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
    *_, last = next_commands(tmp_path, choices_of(configuration(*limits)))
    assert last.endswith(f"leafe.seed=1 {changes}   # train on, up to {what}")


def test_an_evaluation_plays_what_the_run_played(tmp_path):
    (tmp_path / "checkpoints" / "global_step_2").mkdir(parents=True)
    choices = choices_of(configuration())
    given = ["environment=sokoban", "leafe.environment.horizon=4", "leafe.seed=1", "trainer.nnodes=2"]
    (told,) = [
        line
        for line in next_commands(tmp_path, {**choices, "environment": "sokoban", "overrides": given})
        if " evaluate " in line
    ]
    assert " environment=sokoban leafe.environment.horizon=4 " in told and "nnodes" not in told and "seed" not in told


def test_a_run_of_one_step_on_all_tasks_is_not_told_to_train_on(tmp_path):
    assert "train on" not in "\n".join(next_commands(tmp_path, choices_of(configuration(collect="all"))))
