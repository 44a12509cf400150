"""ALFWorld: rows, kitchens that the planner solves, downloaded games, and restoring without playing."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leafe_verl.core.environment import EnvironmentFailure, ReplayDivergence, ReplayEnvironment
from leafe_verl.core.task import Task
from leafe_verl.environments import alfworld
from leafe_verl.environments.alfworld import PROGRAM, ALFWorld
from leafe_verl.environments.alfworld_commands import placing_form
from leafe_verl.environments.alfworld_games import KINDS, Kitchen, build_game, find_games, make_kitchen
from leafe_verl.environments.simulator_process import SimulatorLimits, SimulatorProcess
from leafe_verl.task_files import read_tasks

DATA = Path(alfworld.__file__).parents[1] / "data"
NUM_ORACLE_TASKS = int(os.environ.get("LEAFE_TEST_EPISODES", "2"))
"""Tasks that the oracle plays; planning for two objects takes seconds."""
SLOW = {"start_seconds": 300, "call_seconds": 120}

needs_alfworld = pytest.mark.skipif(alfworld.missing() is not None, reason=str(alfworld.missing()))


@pytest.fixture(autouse=True)
def no_folder_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing the package makes the folder that this names."""
    monkeypatch.setenv("ALFWORLD_DATA", "/")


@pytest.fixture(scope="module")
def environment() -> Iterator[ALFWorld]:
    made = ALFWorld(processes=1, **SLOW)
    yield made
    made.close()


@pytest.fixture(scope="module")
def oracle() -> Iterator[SimulatorProcess]:
    # Planning for two objects takes seconds of a core, and minutes of a busy one.
    process = SimulatorProcess(PROGRAM, SimulatorLimits(**{**SLOW, "call_seconds": 1200}))
    process.wait_until_ready()
    yield process
    process.close()


def kitchen_task(kind: str, seed: int) -> Task:
    return ALFWorld.task({"kind": kind, "seed": seed})


# --- Rows ---


def test_a_row_names_a_game_or_a_kitchen() -> None:
    assert kitchen_task(KINDS[0], 3).key == f"{KINDS[0]}-3"
    assert ALFWorld.task({"game": "a/game.tw-pddl"}).data == {"game": "a/game.tw-pddl"}
    for row in ({}, {"kind": KINDS[0]}, {"kind": "fly", "seed": 1}, {"game": "a", "kind": KINDS[0], "seed": 1}):
        with pytest.raises(ValueError, match="expected the path of a game, or a kind"):
            ALFWorld.task(row)


def test_the_embedded_task_files_are_disjoint() -> None:
    splits = ("train", "heldout")
    train, held_out = (read_tasks(str(DATA / f"embedded_alfworld_{each}.jsonl"), "alfworld") for each in splits)
    assert len(train) >= 96 and len(held_out) >= 32
    assert {each.key for each in train}.isdisjoint(each.key for each in held_out)


def test_what_is_missing_is_said_with_what_fixes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"pip install leafe-verl\[alfworld\]"):
        ALFWorld()


@pytest.mark.parametrize("option", ["horizon", "processes", "call_seconds", "memory_mb"])
def test_an_option_that_makes_no_sense_is_refused_by_name(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alfworld, "missing", lambda: None)
    with pytest.raises(ValueError, match=rf"leafe\.environment\.options\.{option} is 0"):
        ALFWorld(**{option: 0})


# --- Kitchens ---


def problem_with(kitchen: Kitchen) -> str | None:
    """Why the task could not be done, or is done from the start."""
    places = [kitchen.receptacles[where] for name, where in kitchen.objects if name == kitchen.target]
    if len(places) != (2 if kitchen.kind == "pick_two_obj_and_place" else 1):
        return "number of targets"
    if kitchen.destination in places or kitchen.destination not in kitchen.receptacles:
        return "destination"
    return None


@needs_alfworld
def test_every_kitchen_holds_what_its_task_needs_and_comes_from_its_seed() -> None:
    kitchens = {(kind, seed): make_kitchen(seed, kind) for kind in KINDS for seed in range(100)}
    assert {key: problem for key, each in kitchens.items() if (problem := problem_with(each))} == {}
    assert all(make_kitchen(seed, kind) == each for (kind, seed), each in list(kitchens.items())[::20])
    assert len({each.objects for each in kitchens.values()}) == len(kitchens)


@needs_alfworld
def test_the_planners_walkthrough_returns_one(environment: ALFWorld, oracle: SimulatorProcess) -> None:
    tasks = read_tasks(str(DATA / "embedded_alfworld_heldout.jsonl"), "alfworld")
    for each in tasks[1 : NUM_ORACLE_TASKS + 1]:
        commands = oracle.call("walkthrough", each.data)
        environment.reset(each, 0)
        steps = [environment.step(f"Action: {command}") for command in commands]
        assert [step.reward for step in steps] == [0.0] * (len(steps) - 1) + [1.0], each.key
        assert steps[-1].info["success"] and steps[-1].terminated


def test_the_path_of_the_folder_leaves_out_no_game(tmp_path: Path) -> None:
    for kind in ("pick-Mug", "pick-Mug-movable", "pick-MugSliced"):
        folder = tmp_path / "removable" / "Sliced" / "json_2.1.1" / "train" / kind / "trial_1"
        folder.mkdir(parents=True)
        (folder / "game.tw-pddl").write_text('{"solvable": true}')
    assert [row["task_id"] for row in find_games(tmp_path)] == ["train/pick-Mug/trial_1"]


@needs_alfworld
def test_a_downloaded_game_is_played_from_its_file(tmp_path: Path) -> None:
    games = {"trial_1": True, "trial_2": False}
    for trial, solvable in games.items():
        folder = tmp_path / "train" / "pick-Mug" / trial
        folder.mkdir(parents=True)
        game = {**build_game(make_kitchen(1, KINDS[0]), 1), "solvable": solvable}
        (folder / "game.tw-pddl").write_text(json.dumps(game))
    (row,) = find_games(tmp_path)
    assert row["task_id"] == "train/pick-Mug/trial_1"
    program = [sys.executable, "-m", "leafe_verl.environments.alfworld_games", str(tmp_path)]
    assert json.loads(subprocess.run(program, capture_output=True, check=True).stdout) == row
    relative = ALFWorld.task({"game": "train/pick-Mug/trial_1/game.tw-pddl"})
    environment = ALFWorld(data=str(tmp_path), processes=1, **SLOW)
    assert "Your task is to: put" in environment.reset(relative, 0)[0]
    with pytest.raises(EnvironmentFailure, match="FileNotFoundError.*no.tw-pddl"):
        environment.reset(ALFWorld.task({"game": "no.tw-pddl"}), 0)
    environment.close()


# --- Two forms of one command ---


class FakeGame:
    """The simulator's methods, of a game with one apple, in the words of a version of ALFWorld's grammar."""

    def __init__(self, grammar: str) -> None:
        self.placing = placing_form(grammar)
        self.placed = False

    def state(self, operator: str | None = None, observation: str = "A kitchen.") -> dict[str, Any]:
        place = self.placing.replace("O", "apple 1").replace("R", "fridge 1")
        return {
            "observation": observation if operator else "Nothing happens.",
            "won": self.placed,
            "admissible": ["look", "go to fridge 1"] + ([] if self.placed else [place]),
            "operator": operator,
            "facts": str(self.placed),
            "placing": self.placing,
        }

    def load(self, game: dict[str, Any]) -> dict[str, Any]:
        self.placed = False
        return self.state("start")

    def act(self, command: str | None) -> dict[str, Any]:
        """Take an admissible command to the letter, as the package does."""
        if command not in self.state()["admissible"]:
            return self.state()
        self.placed = self.placed or "apple" in str(command)
        return self.state(str(command), f"You {command}.")

    def restore(self, game: dict[str, Any], operators: list[str | None]) -> dict[str, Any]:
        self.load(game)
        state = self.state("start")
        for operator in filter(None, operators):
            state = self.act(operator)
        return state


GRAMMARS = {"move O to R": 'template :: "move {o} to {r}"', "put O in/on R": 'template :: "put {o} in/on {r}"'}


@pytest.fixture(params=GRAMMARS)
def offered(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def fake(offered: str, monkeypatch: pytest.MonkeyPatch) -> ALFWorld:
    monkeypatch.setattr(alfworld, "missing", lambda: None)
    game = FakeGame(GRAMMARS[offered])

    class Fake(ALFWorld):
        def call(self, method: str, *arguments: Any) -> Any:
            return getattr(game, method)(*arguments)

        @contextlib.contextmanager
        def borrowed(self) -> Iterator[bool]:
            yield True

    return Fake()


@pytest.mark.parametrize(
    "said",
    [
        "put apple 1 in/on fridge 1",
        "move apple 1 to fridge 1",
        "put apple 1 in fridge 1",
        "put apple 1 on fridge 1",
        "put the apple 1 into the fridge 1.",
        "place apple 1 in/on fridge 1",
        "put apple 1 in / on fridge 1",
        "Move Apple 1 to Fridge 1",
    ],
)
def test_either_form_places_an_object_and_the_games_own_is_told(fake: ALFWorld, offered: str, said: str) -> None:
    place = offered.replace("O", "apple 1").replace("R", "fridge 1")
    first, _ = fake.reset(kitchen_task(KINDS[0], 1), 0)
    assert place in first
    assert offered in fake.system_prompt and not any(each in fake.system_prompt for each in {*GRAMMARS} - {offered})
    step = fake.step(f"Thought: there.\nAction: {said}")
    assert (step.reward, step.info) == (1.0, {"success": True, "error": False, "action": place})
    after = fake.snapshot()
    fake.reset(kitchen_task(KINDS[0], 1), 0)
    assert fake.restore(after) == 1 and fake.snapshot() == after


@pytest.mark.parametrize(
    "said", ["put apple 2 in/on fridge 1", "move apple 1 to desk 1", "open fridge 1", "put apple 1"]
)
def test_what_the_game_does_not_offer_is_passed_on_as_it_is(fake: ALFWorld, said: str) -> None:
    fake.reset(kitchen_task(KINDS[0], 1), 0)
    step = fake.step(f"Action: {said}")
    assert step.info == {"success": False, "error": True, "action": said}


def test_a_system_prompt_of_ones_own_stays(monkeypatch: pytest.MonkeyPatch, fake: ALFWorld) -> None:
    own = type(fake)(system_prompt="You may move O to R.")
    own.reset(kitchen_task(KINDS[0], 1), 0)
    assert own.system_prompt == "You may move O to R."


# --- Play ---


@needs_alfworld
def test_restoring_gives_what_replaying_gives(environment: ALFWorld) -> None:
    environment.reset(kitchen_task(KINDS[1], 1), 0)
    commands = ("go to sinkbasin 1", "fly", "take cloth 1 from sinkbasin 1", "clean cloth 1 with sinkbasin 1")
    for command in commands:
        step = environment.step(f"Action: {command}")
        assert step.info["error"] == (command == "fly")
    snapshot = environment.snapshot()
    then = [environment.step(f"Action: {command}") for command in ("inventory", "look")]
    assert "You are carrying: a cloth 1" in then[0].observation
    for restore in (environment.restore, lambda each: ReplayEnvironment.restore(environment, each)):
        assert restore(snapshot) == 4
        assert environment.snapshot() == snapshot
        assert [environment.step(f"Action: {command}") for command in ("inventory", "look")] == then


@needs_alfworld
def test_a_state_that_does_not_come_back_is_refused(environment: ALFWorld) -> None:
    environment.reset(kitchen_task(KINDS[1], 1), 0)
    environment.step("Action: go to fridge 1")
    snapshot = environment.snapshot()
    for changes in ({"facts": "0"}, {"digests": ("0", "0")}):
        with pytest.raises(ReplayDivergence):
            environment.restore(snapshot.__class__(**{**vars(snapshot), **changes}))
    with pytest.raises(EnvironmentFailure, match="has the game changed"):
        environment.restore(snapshot.__class__(**{**vars(snapshot), "operators": ("openobject agent1",)}))


@needs_alfworld
def test_admissible_actions_and_the_horizon_are_options() -> None:
    environment = ALFWorld(horizon=1, admissible_commands=False, processes=1, **SLOW)
    assert "Admissible" not in environment.reset(kitchen_task(KINDS[1], 1), 0)[0]
    step = environment.step("look")
    assert environment.horizon == 1 and not step.truncated, "the caller ends the attempt"
    environment.close()
