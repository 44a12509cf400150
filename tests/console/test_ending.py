"""The commands that the end of a run gives."""

from pathlib import Path

from leafe_verl.console.ending import again, choices_of

HYDRA = {
    "job": {"config_name": "leafe"},
    "runtime": {"choices": {"environment": "mbpp"}},
    "overrides": {"task": ["environment=mbpp", "leafe.seed=1"]},
}


def test_going_on_needs_the_environment_variables_of_the_run(monkeypatch):
    for name in ("TRAIN_FILES", "VAL_FILES", "LEAFE_CPU_DTYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODEL", "a folder/model")
    command = again(Path("runs/1"), choices_of(HYDRA), "leafe.seed=2")
    assert command.startswith("MODEL='a folder/model' RUN_DIR=runs/1 bash ")
    assert command.endswith("recipes/leafe_mbpp.sh leafe.seed=2")
