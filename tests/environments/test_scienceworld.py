"""ScienceWorld: rows, answers, the benchmark's score, determinism across JVMs, and gold paths as the oracle."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from leafe_verl.core.environment import EnvironmentFailure
from leafe_verl.core.task import Task
from leafe_verl.environments import react, scienceworld
from leafe_verl.environments.scienceworld import PROGRAM, ScienceWorld
from leafe_verl.environments.simulator_process import SimulatorLimits, SimulatorProcess
from leafe_verl.task_files import read_tasks

DATA = Path(scienceworld.__file__).parents[1] / "data"
NUM_ORACLE_TASKS = int(os.environ.get("LEAFE_TEST_EPISODES", "1"))
"""Tasks that the oracle plays; a gold path takes seconds to compute."""
LIMITS = SimulatorLimits(start_seconds=300, call_seconds=120)

needs_scienceworld = pytest.mark.skipif(scienceworld.missing() is not None, reason=str(scienceworld.missing()))


@pytest.fixture(scope="module")
def environment() -> Iterator[ScienceWorld]:
    made = ScienceWorld(horizon=300, processes=1, start_seconds=300, call_seconds=120)
    yield made
    made.close()


def task(name: str, variation: int) -> Task:
    return ScienceWorld.task({"task": name, "variation": variation})


def play(environment: ScienceWorld, commands: Sequence[str]) -> list[float]:
    """The rewards."""
    return [environment.step(f"Thought: next.\nAction: {command}").reward for command in commands]


# --- Answers in ReAct's form ---


@pytest.mark.parametrize(
    ("answer", "action"),
    [
        ("Thought: hm.\nAction: open door to kitchen", "open door to kitchen"),
        ("action:look around\nObservation: a room\nAction: go to kitchen", "look around"),
        ("**Action:** `go to  kitchen`", "go to kitchen"),
        ("I should take the action: go", None),
        ("Action:\n\nlook around", "look around"),
        ("Action: \ud800", "?"),
        ("look around", None),
        ("", None),
    ],
)
def test_the_first_line_that_says_action_holds_it(answer: str, action: str | None) -> None:
    assert react.extract_action(answer) == action
    assert len(react.extract_action("Action: " + "x" * 1000) or "") == react.MAX_CHARACTERS


# --- Rows ---


def test_a_row_names_a_task_and_a_variation() -> None:
    assert task("boil", 3).key == "boil-3" and task("boil", 3).data == {"task": "boil", "variation": 3}
    for row in ({}, {"task": "boil"}, {"task": "a b", "variation": 1}, {"task": "boil", "variation": -1}):
        with pytest.raises(ValueError, match="expected"):
            ScienceWorld.task(row)


def test_the_embedded_task_files_are_disjoint() -> None:
    train, held_out = (read_tasks(str(DATA / f"embedded_scienceworld_{each}.jsonl"), "scienceworld") for each in SPLITS)
    assert len(train) >= 96 and len(held_out) >= 32
    assert {each.key for each in train}.isdisjoint(each.key for each in held_out)


SPLITS = ("train", "heldout")


def test_what_is_missing_is_said_with_what_fixes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"pip install leafe-verl\[scienceworld\]"):
        ScienceWorld()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RuntimeError, match="Java 8 or newer.*fix it with"):
        ScienceWorld()


@pytest.mark.parametrize("option", ["horizon", "processes", "call_seconds", "memory_mb"])
def test_an_option_that_makes_no_sense_is_refused_by_name(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scienceworld, "missing", lambda: None)
    with pytest.raises(ValueError, match=rf"leafe\.environment\.options\.{option} is 0"):
        ScienceWorld(**{option: 0})


# --- Play ---


@needs_scienceworld
def test_a_task_that_is_lost_returns_zero_and_unknown_actions_are_told(environment: ScienceWorld) -> None:
    observation, _ = environment.reset(task("lifespan-shortest-lived", 93), 0)
    assert observation.startswith("Your task is to find") and "This room is called" in observation
    for answer in ("Action: fly", "fly"):
        step = environment.step(answer)
        assert step.info["error"] and not step.terminated and step.reward == 0
    assert sum(play(environment, ["open door to outside", "go to outside"])) > 0
    step = environment.step("Action: focus on crocodile")
    assert step.terminated and not step.info["success"] and step.info["score"] == 0 and step.reward < 0


@needs_scienceworld
def test_valid_actions_and_the_horizon_are_options() -> None:
    environment = ScienceWorld(horizon=2, valid_actions=5, processes=1, start_seconds=300, call_seconds=120)
    observation, _ = environment.reset(task("lifespan-shortest-lived", 93), 0)
    assert 1 <= observation.rpartition("Some valid actions: ")[2].count(",") < 5
    steps = [environment.step("Action: look around") for _ in range(2)]
    assert environment.horizon == 2 and not steps[-1].truncated, "the caller ends the attempt"
    environment.close()


@needs_scienceworld
def test_a_variation_that_there_is_not_is_a_failure_that_says_so() -> None:
    environment = ScienceWorld(processes=1, start_seconds=300, call_seconds=120)
    with pytest.raises(EnvironmentFailure, match="no variation 99999; expected 0 to"):
        environment.reset(task("boil", 99999), 0)


@needs_scienceworld
def test_gold_paths_score_one(environment: ScienceWorld) -> None:
    tasks = read_tasks(str(DATA / "embedded_scienceworld_heldout.jsonl"), "scienceworld")
    random.Random(0).shuffle(tasks)
    # In a process of its own: after the first such path, every reset would compute one.
    oracle = SimulatorProcess(PROGRAM, LIMITS)
    try:
        oracle.wait_until_ready()
        for each in tasks[:NUM_ORACLE_TASKS]:
            path = oracle.call("gold_path", each.data["task"], each.data["variation"])
            environment.reset(each, 0)
            rewards = play(environment, path[:-1])
            step = environment.step(f"Action: {path[-1]}")
            assert step.terminated and step.info["success"], each.key
            assert sum(rewards) + step.reward == pytest.approx(1) and len(path) <= 30, each.key
    finally:
        oracle.close()
