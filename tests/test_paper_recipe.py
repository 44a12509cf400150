"""recipes/paper.md: its commands are what Hydra takes, its estimates of cost follow from the assumptions that it
states, and its paths are there."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from leafe_verl.cli import _parser

PAGE = Path(__file__).parents[1] / "recipes" / "paper.md"
TEXT = PAGE.read_text(encoding="utf-8")
GPUS = {7: 8, 14: 16, 32: 16, 72: 32}
TASKS = {"WebShop": 500, "ALFWorld": 140, "ScienceWorld": 150, "Sokoban": 500, "CodeContests": 165, "MBPP": 378}
TRAINED = 16_000
"""Attempts of stage 1."""
RECORD = """#!/bin/bash
{ echo "$(basename "$0") RUN_DIR=${RUN_DIR:-} MODEL=${MODEL:-}"; printf '%s\\n' "$@"; } > "$(mktemp "$CALLS/XXXX")"
"""
"""Stands for a program, and keeps what it was called with."""


def number(cell):
    return float(cell.replace(",", "")) if cell else None


def hours(tokens, billions):
    return tokens * 1e6 / (2500 * 7 / billions * GPUS[billions]) / 3600


def test_every_line_of_the_cost_follows_from_the_assumptions():
    lines = TEXT.partition("evaluating one model: attempts")[2].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert len(rows) == 9
    for name, *cells in rows:
        environment, billions = name.split(", ")[0], int(name.split(", ")[1].removesuffix("B"))
        horizon, turn, *found = [number(cell) for cell in cells]
        expected = []
        for attempts in (TRAINED, 128 * TASKS[environment]):
            steps = attempts * horizon
            tokens = steps * turn / 1e6
            expected += [attempts, steps, round(tokens), round(hours(tokens, billions), 1)]
        assert found == ([None] * 3 if environment == "MBPP" else expected[1:4]) + expected[4:], name


def test_the_numbers_of_gpus_are_those_of_the_sizes():
    folder = PAGE.parents[1] / "leafe_verl" / "plugin" / "config" / "size"
    for billions, gpus in GPUS.items():
        (nodes,) = re.findall(
            r"nnodes: (\d)", (folder / f"{billions}b.yaml").read_text(encoding="utf-8").split("trainer:")[1]
        )
        assert 8 * int(nodes) == gpus


def test_the_page_says_that_nothing_was_run_and_its_links_are_there():
    assert "**Nothing on this page has been run.**" in TEXT
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", TEXT):
        assert (PAGE.parent / target).exists(), target


@pytest.fixture
def called(tmp_path):
    """Return what the page's commands call, as lists of arguments; the first item names the program and variables."""
    programs, calls = tmp_path / "programs", tmp_path / "calls"
    programs.mkdir()
    calls.mkdir()
    for name in ("python", "leafe-verl"):
        (programs / name).write_text(RECORD)
        (programs / name).chmod(0o755)
    (commands,) = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    kept = {name: value for name, value in os.environ.items() if name not in ("MODEL", "RUN_DIR")}
    environment = {**kept, "PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(calls)}
    subprocess.run(["bash", "-euc", commands], env=environment, check=True)
    return [path.read_text().splitlines() for path in calls.iterdir()]


def test_hydra_takes_every_training_of_the_page(called):
    parser = pytest.importorskip("hydra._internal.utils").get_args_parser()
    trainings = {}
    for first, *arguments in called:
        if first.startswith("python "):
            assert arguments[:2] == ["-m", "verl.trainer.main_ppo"]
            options = parser.parse_args(arguments[2:])
            trainings[options.config_name] = (first, options.overrides)
    assert {*trainings} == {"grpo", "early_experience", "ace", "leafe"}
    assert all(overrides[:2] == ["environment=alfworld", "size=7b"] for _, overrides in trainings.values())
    first, overrides = trainings["leafe"]
    assert first == "python RUN_DIR=runs/leafe MODEL=runs/grpo/checkpoints/best"
    assert overrides[2:] == ["preset=paper", "leafe.schedule.collect=all"]
    assert all(trainings[name][1][2:] == ["trainer.total_epochs=1"] for name in ("early_experience", "ace"))


def test_no_checkpoint_is_chosen_by_the_tasks_that_are_reported(called):
    chosen_by = re.search(r"export .*VAL_FILES=(\S+)", TEXT)
    evaluated = [arguments[arguments.index("--tasks") + 1] for _, *arguments in called if "--tasks" in arguments]
    assert chosen_by and evaluated and chosen_by[1] not in evaluated


def test_the_command_line_takes_the_evaluation_of_the_page(called):
    ((_, *arguments),) = [each for each in called if each[0].startswith("leafe-verl ")]
    options, rest = _parser().parse_known_args(arguments)
    assert (options.attempts, rest) == (128, ["environment=alfworld", "size=7b"])
