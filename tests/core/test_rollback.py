"""Taking an environment back to a step of a recorded path."""

from __future__ import annotations

import dataclasses

import pytest

from fakes import TASK, Corridor, DriftingCorridor, ReplayCorridor, ScriptedPolicy, World, grow
from leafe_verl.core import ReplayDivergence
from leafe_verl.core.rollback import roll_back

WALK = "RLRL"


def recorded(world, snapshots=True):
    """A path of four steps through cells 0, 1, 0, 1, 0, with or without snapshots."""
    path = grow(ScriptedPolicy(lambda m: WALK[len(m) // 2]), world, budget={"depth": 0}).path(0)
    return path if snapshots else [dataclasses.replace(step, snapshot=None) for step in path]


@pytest.mark.parametrize("kind", [Corridor, ReplayCorridor])
@pytest.mark.parametrize("snapshots", [True, False])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_the_environment_is_in_the_state_before_the_step(kind, snapshots, step):
    path, environment = recorded(World(kind), snapshots), World(kind)()
    replayed = roll_back(environment, TASK, 0, path, step)

    assert environment.walk.cell == (step - 1) % 2
    expected = step - 1 if kind is ReplayCorridor or not snapshots else int(step == 5)  # no step 5 has a snapshot
    assert replayed == expected


def test_what_the_environment_did_before_does_not_matter():
    path, environment = recorded(World(), snapshots=False), World()()
    environment.reset(TASK, 0)
    environment.step("J")
    assert roll_back(environment, TASK, 0, path, 3) == 2 and environment.walk.cell == 0


def test_a_replay_that_shows_something_else_is_refused():
    world = World(DriftingCorridor)
    path = recorded(world, snapshots=False)
    with pytest.raises(
        ReplayDivergence, match="after 1 replayed actions the environment says '1 drift 2', not '1 drif"
    ):
        roll_back(world(), TASK, 0, path, 2)


def test_a_replay_that_looks_alike_and_rewards_something_else_is_refused():
    path = recorded(World(), snapshots=False)
    path[0] = dataclasses.replace(path[0], reward=path[0].reward + 1)
    with pytest.raises(
        ReplayDivergence, match="after 1 replayed actions the environment says 'reward .*', not 'reward"
    ):
        roll_back(World()(), TASK, 0, path, 2)


def test_another_first_observation_is_refused():
    first = recorded(World(), snapshots=False)[0]
    opening = dataclasses.replace(first.history, messages=({"role": "user", "content": "7"},))
    with pytest.raises(ReplayDivergence, match=r"after 0 replayed actions .* leafe\.seed"):
        roll_back(World()(), TASK, 0, [dataclasses.replace(first, history=opening)], 1)
