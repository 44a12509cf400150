"""Random play of every environment, rolled back in another order, another instance and another interpreter."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from contracts.scenarios import SCENARIOS, Scenario
from leafe_verl.core.environment import Step
from leafe_verl.core.task import Task

STEPS = 30
EVERY = 5
"""Steps between two snapshots, where an attempt has that many."""
LIMIT_SECONDS = 1800
"""Time limit of a fresh interpreter; generous, because only a hang should reach it."""


@dataclass(frozen=True)
class Episode:
    actions: list[str]
    steps: list[Step]
    snapshots: dict[int, Any]
    """Steps taken to snapshot."""

    def since(self, taken: int) -> tuple[list[str], list[Step]]:
        """Actions and steps from a snapshot to the next."""
        part = slice(taken, taken + EVERY)
        return self.actions[part], self.steps[part]


@pytest.fixture(scope="module", params=sorted(SCENARIOS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def episodes(name: str) -> list[Episode]:
    scenario = SCENARIOS[name]()
    number = int(os.environ.get("LEAFE_TEST_EPISODES", scenario.episodes))
    return [play(scenario, scenario.tasks[seed % len(scenario.tasks)], seed) for seed in range(number)]


def play(scenario: Scenario, task: Task, seed: int) -> Episode:
    environment, randomness = scenario.new(), random.Random(seed)
    every = EVERY if environment.horizon > EVERY else 1
    observation, _ = environment.reset(task, seed)
    episode = Episode([], [], {})
    for taken in range(min(STEPS, environment.horizon)):
        if taken % every == 0:
            episode.snapshots[taken] = environment.snapshot()
        action = draw(scenario, randomness, observation)
        step = environment.step(action)
        episode.actions.append(action)
        episode.steps.append(step)
        observation = step.observation
        if step.terminated or step.truncated:
            break
    environment.close()
    return episode


def draw(scenario: Scenario, randomness: random.Random, observation: str) -> str:
    if scenario.random_action is not None:
        return scenario.random_action(randomness, observation)
    return randomness.choice([action for play in scenario.plays for action in play])


def points(episodes: list[Episode]) -> list[tuple[Any, list[str], list[Step]]]:
    """Every snapshot with what followed it, in an order that has nothing to do with that of play."""
    found = [(episode.snapshots[taken], *episode.since(taken)) for episode in episodes for taken in episode.snapshots]
    random.Random(0).shuffle(found)
    return found


def continued(name: str, restorations: list[tuple[Any, list[str]]]) -> list[list[Step]]:
    """What the actions give after each snapshot, all in one instance."""
    environment = SCENARIOS[name]().new()
    answers = []
    for snapshot, actions in restorations:
        environment.restore(snapshot)
        answers.append([environment.step(action) for action in actions])
    environment.close()
    return answers


def test_they_are_restored_in_another_order(name: str, episodes: list[Episode]) -> None:
    expected = points(episodes)
    assert len(expected) > len(episodes)
    assert continued(name, [point[:2] for point in expected]) == [steps for *_, steps in expected]


def test_they_are_restored_in_a_fresh_interpreter(name: str, episodes: list[Episode]) -> None:
    expected = points(episodes)
    program = (
        "import pickle, sys; from contracts.test_random_episodes import continued;"
        f"asked = pickle.load(sys.stdin.buffer); sys.stdout.buffer.write(pickle.dumps(continued({name!r}, asked)))"
    )
    tests = Path(__file__).parents[1]
    answer = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps([point[:2] for point in expected]),
        env={"PYTHONPATH": f"{tests}:{tests.parent}", "PYTHONHASHSEED": "7"},
        capture_output=True,
        timeout=LIMIT_SECONDS,
    )
    assert answer.returncode == 0, answer.stderr.decode()
    assert pickle.loads(answer.stdout) == [steps for *_, steps in expected]
