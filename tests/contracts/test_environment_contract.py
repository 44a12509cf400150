"""The contract of core's `Environment`, checked on every registered environment."""

from __future__ import annotations

import asyncio
import pickle
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from contracts.scenarios import SCENARIOS, Counter, Scenario, all_transcripts, transcript
from leafe_verl.core.environment import Environment, EnvironmentFailure, ReplayDivergence, Step, has_failed
from leafe_verl.core.environment_calls import call_within
from leafe_verl.core.task import Task
from leafe_verl.environments import environment_class, names
from leafe_verl.environments.rows import build_verl_row

STEP_SECONDS = 20
"""Time limit of a call; generous, because only a hang should reach it."""


@pytest.fixture(scope="module", params=sorted(SCENARIOS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def scenario(name: str) -> Scenario:
    return SCENARIOS[name]()


@pytest.fixture(scope="module")
def transcripts(name: str) -> list[list[Any]]:
    return all_transcripts(name)


def test_every_registered_environment_has_a_scenario() -> None:
    assert set(names()) <= set(SCENARIOS)


# --- Form ---


def test_answers_have_the_contracts_form(scenario: Scenario, transcripts: list[list[Any]]) -> None:
    environment = scenario.new()
    assert isinstance(environment.system_prompt, str) and environment.horizon >= 1
    for (observation, info), *steps in transcripts:
        assert isinstance(observation, str) and observation and isinstance(info, dict)
        for step in steps:
            assert isinstance(step, Step) and isinstance(step.observation, str)
            assert isinstance(step.reward, float) and not step.terminated
            assert isinstance(step.info["success"], bool) and isinstance(step.info["error"], bool)
            assert has_failed(step) is (True if step.info["error"] else step.info.get("failed"))


def test_an_action_that_makes_no_sense_is_feedback(scenario: Scenario) -> None:
    for action in ("", " ", "\0", "\ud800", "no such action", "x" * 100_000, "```python\n" * 50):
        environment = scenario.new()
        environment.reset(scenario.tasks[0], 0)
        step = environment.step(action)
        assert step.info["error"] and not step.info["success"] and not step.terminated
        assert step.observation.encode()


def test_the_solution_succeeds_with_its_last_action(scenario: Scenario) -> None:
    _, *before, last = transcript(scenario.new(), scenario.tasks[0], scenario.solution)
    assert not any(step.terminated or step.info["success"] for step in before)
    assert last.terminated and last.info["success"] and not last.info["error"]
    assert has_failed(last) is False


def test_rows_written_for_verl_are_read_back(name: str, scenario: Scenario) -> None:
    if name not in names():
        pytest.skip("only registered environments have data sets")
    found = environment_class(name)
    for index, task in enumerate(scenario.tasks):
        assert found.task(build_verl_row(task, "train", index)) == task


# --- The same actions, the same answers ---


def test_the_same_actions_give_the_same_answers(name: str, transcripts: list[list[Any]]) -> None:
    assert all_transcripts(name) == transcripts


def test_they_do_so_in_a_fresh_interpreter(name: str, transcripts: list[list[Any]]) -> None:
    program = (
        "import pickle, sys; from contracts.scenarios import all_transcripts;"
        f"sys.stdout.buffer.write(pickle.dumps(all_transcripts({name!r})))"
    )
    tests = Path(__file__).parents[1]
    environment = {"PYTHONPATH": f"{tests}:{tests.parent}", "PYTHONHASHSEED": "7"}
    answer = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, timeout=120)
    assert answer.returncode == 0, answer.stderr.decode()
    assert pickle.loads(answer.stdout) == transcripts


def test_an_instance_can_be_reset_to_another_task(scenario: Scenario, transcripts: list[list[Any]]) -> None:
    environment = scenario.new()
    transcript(environment, scenario.tasks[-1], scenario.plays[1])
    assert transcript(environment, scenario.tasks[0], scenario.plays[0]) == transcripts[0]


# --- Rollback ---


def take_snapshots(environment: Environment, task: Task, actions: tuple[str, ...]) -> list[Any]:
    """Play the actions. Returns the snapshots before each of them and after the last."""
    environment.reset(task, 0)
    taken = [environment.snapshot()]
    for action in actions:
        environment.step(action)
        taken.append(environment.snapshot())
    return taken


def test_any_step_can_be_restored_in_any_order_and_instance(scenario: Scenario, transcripts: list[list[Any]]) -> None:
    task, actions = scenario.tasks[0], scenario.plays[0]
    environment = scenario.new()
    original = transcripts[0][1:]
    taken = [pickle.loads(pickle.dumps(snapshot)) for snapshot in take_snapshots(environment, task, actions)]
    order = list(range(len(taken)))
    random.Random(0).shuffle(order)
    for index in order:
        # In the instance that has played on, and in one that has played nothing.
        for instance in (environment, scenario.new()):
            replayed = instance.restore(taken[index])
            assert replayed in (0, index)
            assert [instance.step(action) for action in actions[index:]] == original[index:]


def test_an_abandoned_branch_leaves_no_trace_in_its_sibling(scenario: Scenario, transcripts: list[list[Any]]) -> None:
    task, actions, other = scenario.tasks[0], scenario.plays[0], scenario.plays[1]
    environment = scenario.new()
    original = transcripts[0][1:]
    taken = take_snapshots(environment, task, actions)
    for index in range(len(actions)):
        environment.restore(taken[index])
        for action in other:
            environment.step(action)
        environment.restore(taken[index])
        assert [environment.step(action) for action in actions[index:]] == original[index:]


def test_a_restored_state_is_the_one_that_was_taken(scenario: Scenario) -> None:
    environment = scenario.new()
    taken = take_snapshots(environment, scenario.tasks[0], scenario.plays[0])
    for snapshot in taken:
        environment.restore(snapshot)
        assert environment.snapshot() == snapshot


def test_instances_do_not_share_state(scenario: Scenario, transcripts: list[list[Any]]) -> None:
    one, two = scenario.new(), scenario.new()
    actions = scenario.plays[0]
    one.reset(scenario.tasks[0], 0)
    two.reset(scenario.tasks[-1], 0)
    both = [(one.step(action), two.step(action)) for action in actions]
    assert [steps[0] for steps in both] == transcripts[0][1:]
    assert [steps[1] for steps in both] == transcripts[-len(scenario.plays)][1:]


class Drifting(Counter):
    """Counts its steps over all attempts: the same actions give other observations."""

    drift = 0

    def advance(self, action: str) -> Step:
        self.drift += 1
        step = super().advance(action)
        return step._replace(observation=f"{step.observation} at {self.drift}")


def test_a_nondeterministic_environment_is_found_out_when_it_replays() -> None:
    scenario = SCENARIOS["counter"]()
    environment = Drifting()
    first, second, *_ = take_snapshots(environment, scenario.tasks[0], scenario.plays[0])
    assert environment.restore(first) == 0
    with pytest.raises(ReplayDivergence, match="after 1 replayed actions"):
        environment.restore(second)


# --- Ending ---


def test_it_can_be_closed_twice_and_before_any_reset(scenario: Scenario) -> None:
    fresh, played = scenario.new(), scenario.new()
    transcript(played, scenario.tasks[0], scenario.plays[0])
    for environment in (fresh, played):
        assert (environment.close(), environment.close()) == (None, None)


class Breaking:
    """An environment whose next step raises, or hangs until it is closed."""

    def __init__(self, inner: Environment, how: str) -> None:
        self.inner, self.how = inner, how
        self.closed = threading.Event()

    def step(self, action: str) -> Step:
        if self.how == "raise":
            raise OSError("broken")
        self.closed.wait(STEP_SECONDS)
        return self.inner.step(action)

    def close(self) -> None:
        self.closed.set()
        self.inner.close()


def within(seconds: float, *call: Any) -> Any:
    return asyncio.run(call_within(seconds, "step", *call))


@pytest.mark.parametrize(
    ("how", "text"), [("raise", "step raised OSError: broken"), ("hang", "took longer than 0.2 s")]
)
def test_a_broken_step_is_a_failure_within_its_limit_and_harms_no_other(
    scenario: Scenario, how: str, text: str
) -> None:
    task, action = scenario.tasks[0], scenario.plays[0][0]
    inner = scenario.new()
    inner.reset(task, 0)
    broken = Breaking(inner, how)
    start = time.monotonic()
    with pytest.raises(EnvironmentFailure, match=text):
        within(0.2, broken.step, action)
    assert time.monotonic() - start < STEP_SECONDS / 2
    broken.close()
    sound = scenario.new()
    sound.reset(task, 0)
    assert within(STEP_SECONDS, sound.step, action) == transcript(scenario.new(), task, (action,))[1]
