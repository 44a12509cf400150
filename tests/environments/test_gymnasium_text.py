"""The adapter for text environments of Gymnasium's form: tasks, answers, and the three ways back."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from environments import gymnasium_games
from leafe_verl.core.environment import EnvironmentFailure, ReplayDivergence
from leafe_verl.environments import make
from leafe_verl.environments.gymnasium_text import GymnasiumText
from leafe_verl.environments.rows import build_verl_row

TASK = GymnasiumText.task({"task_id": "a", "seed": 5})


def playing(kind: str, snapshot: str = "auto", **options: Any) -> GymnasiumText:
    environment = GymnasiumText(f"environments.gymnasium_games:{kind}", snapshot=snapshot, **options)
    environment.reset(TASK, 0)
    return environment


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("StatefulDoors", "state"),
        ("Doors", "replay"),
        ("UncopyableDoors", "replay"),
        ("PointerDoors", "replay"),
        ("BrokenStateDoors", "replay"),
    ],
)
def test_auto_takes_the_first_way_that_works(kind: str, found: str) -> None:
    environment = playing(kind)
    first = environment.step("left")
    snapshot = pickle.loads(pickle.dumps(environment.snapshot()))
    assert snapshot.kind == found
    rest = [environment.step(action) for action in ("right", "up", "left")]
    for instance in (environment, playing(kind), GymnasiumText(f"environments.gymnasium_games:{kind}")):
        assert instance.restore(snapshot) == (1 if found == "replay" else 0)
        assert [instance.step(action) for action in ("right", "up", "left")] == rest
    assert first.observation == "Step 1, 0 doors passed."


@pytest.mark.parametrize(
    ("kind", "snapshot"), [("StatefulDoors", "copy"), ("UncopyableDoors", "copy"), ("Doors", "state")]
)
def test_a_way_that_does_not_work_is_a_failure(kind: str, snapshot: str) -> None:
    with pytest.raises(EnvironmentFailure, match=rf"cannot be rolled back by its {snapshot}.*options\.snapshot"):
        playing(kind, snapshot).snapshot()


@pytest.mark.parametrize(
    ("wrappers", "found"),
    [
        (("Limited",), "state"),
        (("Forwarding",), "state"),
        (("Limited", "Forwarding", "Limited"), "state"),
        (("Calling",), "state"),
        (("Sharing",), "replay"),
        (("SharingWithin",), "replay"),
    ],
)
def test_the_state_of_a_wrapped_environment_is_taken_with_that_of_its_wrappers(
    wrappers: tuple[str, ...], found: str
) -> None:
    def make_one() -> GymnasiumText:
        return GymnasiumText("environments.gymnasium_games:wrapped_doors", {"wrappers": wrappers})

    environment = make_one()
    environment.reset(TASK, 0)
    environment.step("left")
    snapshot = pickle.loads(pickle.dumps(environment.snapshot()))
    rest = [environment.step(action) for action in ("right", "up")]
    assert snapshot.kind == found and [step.truncated for step in rest] == [False, True], "the wrapper counts on"
    for instance in (environment, make_one()):
        for _ in range(2):
            assert instance.restore(snapshot) == (1 if found == "replay" else 0)
            assert [instance.step(action) for action in ("right", "up")] == rest
    inner, outer = instance._environment.unwrapped, instance._environment
    assert getattr(outer, "again", inner) is inner and getattr(outer, "call", inner.step).__self__ is inner


def test_a_copy_is_made_where_it_is_asked_for() -> None:
    environment = playing("Doors", "copy")
    environment.step("left")
    snapshot = pickle.loads(pickle.dumps(environment.snapshot()))
    rest = [environment.step(action) for action in ("right", "up", "left")]
    for instance in (environment, playing("Doors", "copy")):
        assert snapshot.kind == "copy" and instance.restore(snapshot) == 0
        assert [instance.step(action) for action in ("right", "up", "left")] == rest


def test_what_is_outside_of_the_environment_comes_back_without_a_choice() -> None:
    environment = playing("GlobalDice")
    environment.step("roll")
    snapshot = environment.snapshot()
    rest = [environment.step("roll") for _ in range(3)]
    assert snapshot.kind == "replay" and environment.restore(snapshot) == 1
    assert [environment.step("roll") for _ in range(3)] == rest


def test_a_copy_that_cannot_be_read_back_is_a_failure() -> None:
    asked = playing("HandleDoors", "copy")
    with pytest.raises(EnvironmentFailure, match="by its copy .OSError: the server knows no such handle."):
        asked.restore(asked.snapshot())


def test_a_pointer_is_named_where_a_copy_was_asked_for() -> None:
    with pytest.raises(EnvironmentFailure, match="ctypes objects containing pointers cannot be pickled"):
        playing("PointerDoors", "copy").snapshot()


def test_a_replay_is_checked() -> None:
    environment = playing("DriftingDoors")
    environment.step("left")
    with pytest.raises(ReplayDivergence):
        environment.restore(environment.snapshot())


def test_success_is_told_or_a_return_above_zero_at_the_end() -> None:
    environment = playing("Doors", kwargs={"num_doors": 2})
    steps = [environment.step(action) for action in ("right", "up", "right")]
    assert [(step.terminated, step.info["success"], step.info["error"]) for step in steps] == [
        (False, False, False), (False, False, True), (True, True, False),
    ]  # fmt: skip
    environment = playing("Doors", kwargs={"num_doors": 1})
    inner = environment._environment
    inner.step = lambda action: ("Over.", 1.0, True, False, {"success": False})
    assert not environment.step("left").info["success"]


def test_reset_gets_seed_and_options() -> None:
    observation, _ = GymnasiumText("environments.gymnasium_games:Doors").reset(
        GymnasiumText.task({"task_id": "a", "options": {"num_doors": 9}}), 3
    )
    assert observation.startswith("9 doors")
    environment = playing("Doors")
    assert environment.step("right").observation == "Step 1, 1 doors passed."


def test_it_is_closed_once() -> None:
    environment = playing("Doors")
    inner: gymnasium_games.Doors = environment._environment
    environment.close()
    environment.close()
    assert inner.closed


def test_observations_must_be_texts() -> None:
    with pytest.raises(TypeError, match="the observation is a int; expected a text"):
        playing("Numbers")


def test_gymnasiums_own_factory_is_an_entry_point() -> None:
    gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is not installed")
    gymnasium.register("Doors-v0", entry_point="environments.gymnasium_games:GymnasiumDoors", max_episode_steps=2)
    environment = GymnasiumText("gymnasium:make", {"id": "Doors-v0", "disable_env_checker": True})
    environment.reset(TASK, 0)
    snapshot = environment.snapshot()
    first = [environment.step("left"), environment.step("right")]
    assert first[-1].truncated
    environment.restore(snapshot)
    assert [environment.step("left"), environment.step("right")] == first, "the wrapper counts steps, too"


# --- Rows and options ---


def test_rows_are_read_and_written() -> None:
    assert TASK.data == {"seed": 5}
    task = GymnasiumText.task({"text": "Go.", "options": {"num_doors": 1}}, default_key="7")
    assert (task.key, task.instruction, task.data) == ("7", "Go.", {"options": {"num_doors": 1}})
    assert GymnasiumText.task(build_verl_row(task, "train", 0)) == task


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({}, "no task_id"),
        ({"task_id": 1, "seed": "x"}, "seed is 'x'; expected an integer"),
        ({"task_id": 1, "options": 3}, "options is 3; expected an object for reset"),
    ],
)
def test_a_row_that_is_no_task_is_refused(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        GymnasiumText.task(row)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"entry_point": "no_such_module:make"}, r"options\.entry_point is 'no_such_module:make'"),
        ({"entry_point": "math"}, r"options\.entry_point is 'math'"),
        ({"entry_point": "math:pi"}, "no callable; expected package.module:callable"),
        ({"entry_point": "math:sin", "horizon": 0}, r"options\.horizon is 0"),
        ({"entry_point": "math:sin", "snapshot": "magic"}, r"options\.snapshot is 'magic'; expected one of auto"),
        ({}, "missing a required argument: 'entry_point'"),
    ],
)
def test_options_that_lead_nowhere_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make("gymnasium", **options)
