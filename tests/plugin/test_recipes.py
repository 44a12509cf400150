"""The recipes: small differences, commands that compose, and nothing that only this checkout has."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from leafe_verl.environments import BUILT_IN

RECIPES = Path(__file__).parents[2] / "recipes"
ENVIRONMENTS = sorted({*BUILT_IN} - {"gymnasium"})
"""Those with recipes; what a Gymnasium environment needs is its owner's to say."""
PYTHON = """#!/usr/bin/env bash
case "$*" in
    *device_count*) echo "$STUB_GPUS" ;;
    *merge*) echo "${@: -1}" ;;
    *main_ppo*) printf '%s\\n' "$@" ;;
esac
"""
"""Prints the launcher's arguments, one a line, in the place of running it."""


@pytest.fixture
def run(tmp_path):
    stub = tmp_path / "bin" / "python"
    stub.parent.mkdir()
    stub.write_text(PYTHON)
    stub.chmod(0o755)

    def arguments(recipe, *overrides, gpus=0, **variables):
        path = f"{stub.parent}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if name not in ("MODEL", "TRAIN_FILES", "VAL_FILES")}
        environment = {**kept, "PATH": path, "STUB_GPUS": str(gpus), "RUN_DIR": str(tmp_path / "run"), **variables}
        command = ["bash", RECIPES / f"{recipe}.sh", *overrides]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return arguments


def test_the_recipes_differ_in_at_most_fifteen_lines():
    diff = subprocess.run(["diff", RECIPES / "leafe_mbpp.sh", RECIPES / "grpo_mbpp.sh"], capture_output=True, text=True)
    assert 0 < len(diff.stdout.splitlines()) <= 15


def test_every_script_parses():
    scripts = sorted(RECIPES.glob("*.sh"))
    assert len(scripts) >= 4
    for script in scripts:
        assert subprocess.run(["bash", "-n", script]).returncode == 0, script


@pytest.mark.parametrize("gpus", [0, 8])
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_leafe_and_grpo_differ_in_the_algorithms_lines_alone(run, environment, gpus):
    leafe, grpo = (run(f"{algorithm}_{environment}", gpus=gpus) for algorithm in ("leafe", "grpo"))
    algorithms = ("leafe", "grpo", "actor_rollout_ref.rollout.n=", "leafe.budget.", "leafe.reflection.")
    differing = {*leafe} ^ {*grpo}
    assert differing and all(line.startswith(algorithms) for line in differing)
    assert f"leafe.environment.name={environment}" in leafe


@pytest.mark.parametrize("gpus", [0, 8])
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_commands_compose_with_task_files_that_are_there(run, environment, gpus):
    pytest.importorskip("verl", reason="verl is not installed")
    from hydra import compose, initialize_config_module

    given = run(f"leafe_{environment}", gpus=gpus)
    overrides = [each for each in given if "=" in each and not each.startswith(("hydra.", "--"))]
    with initialize_config_module("leafe_verl.plugin.config", version_base=None):
        config = compose("leafe", overrides=overrides)
    files = [config.data.train_files, config.data.val_files]
    assert all(source.startswith("hub:") if gpus and environment in ("mbpp", "codecontests") else Path(source).is_file()
               for source in files)  # fmt: skip
    assert config.leafe.environment.name == environment and config.trainer.test_freq is None


def test_what_is_given_wins(run):
    given = run("leafe_sokoban", "trainer.test_freq=3", TRAIN_FILES="mine.jsonl", MODEL="owner/name")
    assert "data.train_files=mine.jsonl" in given and "actor_rollout_ref.model.path=owner/name" in given
    assert "trainer.test_freq=3" in given
    assert "leafe.environment.horizon=2" in run("leafe_mbpp") and "leafe.environment.horizon=2" not in run(
        "leafe_mbpp", MODEL="owner/name"
    )


def test_an_environment_without_a_line_is_named(tmp_path):
    script = tmp_path / "leafe_chess.sh"
    script.write_text(f'ROOT=. DEVICE=cpu ENVIRONMENT=chess; . "{RECIPES}/environments.sh"')
    done = subprocess.run(["bash", script], capture_output=True, text=True)
    assert done.returncode == 1 and "no line for chess on cpu" in done.stderr
