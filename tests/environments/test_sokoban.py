"""Sokoban: rules, rooms, rewards, answers and rows."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytest

from leafe_verl.environments import make
from leafe_verl.environments.rows import build_verl_row
from leafe_verl.environments.sokoban import Sokoban, parse_move
from leafe_verl.environments.sokoban_rooms import MOVES, Room, make_room
from leafe_verl.task_files import read_tasks

DATA = Path(__file__).parents[2] / "leafe_verl" / "data"
TASK = Sokoban.task({"seed": 0})


def parsed(drawing: str) -> Room:
    """The room of a drawing, for tests that need a certain one."""
    lines = drawing.split()
    cells = {(row, column): symbol for row, line in enumerate(lines) for column, symbol in enumerate(line)}

    def find(symbols: str) -> frozenset[tuple[int, int]]:
        return frozenset(cell for cell, symbol in cells.items() if symbol in symbols)

    (player,) = find("PS")
    return Room(len(lines), find("_OX√PS"), find("O√S"), find("X√"), player)


def shortest_solution(room: Room) -> list[str]:
    """The shortest one, by breadth-first search."""
    paths: dict[Room, list[str]] = {room: []}
    queue = deque([room])
    while queue:
        room = queue.popleft()
        if room.solved:
            return paths[room]
        for word, move in MOVES.items():
            after = room.moved(move)
            if after not in paths:
                paths[after] = [*paths[room], word]
                queue.append(after)
    raise AssertionError(f"no solution:\n{room.render()}")


# --- Rules ---


ROOM = """
######
#_OP_#
#_X_X#
#_X_O#
#____#
######"""


@pytest.mark.parametrize(
    ("before", "word", "after"),
    [
        ("####\n#PX_\n#__O\n####", "right", "####\n#_PX\n#__O\n####"),
        ("####\n#PX#\n#__O\n####", "right", None),
        ("#####\n#PXX_\n#__OO\n#####\n#####", "right", None),
        ("####\n#PXO\n#___\n####", "right", "####\n#_P√\n#___\n####"),
        ("####\n#P√_\n#___\n####", "right", "####\n#_SX\n#___\n####"),
        ("####\n#_P_\n#X_O\n####", "up", None),
        ("####\n#_P_\n#X_O\n####", "left", "####\n#P__\n#X_O\n####"),
    ],
)
def test_a_box_is_pushed_into_a_free_cell_alone(before: str, word: str, after: str | None) -> None:
    assert parsed(before).moved(MOVES[word]).render() == (after or before)


def test_a_room_is_drawn_as_it_is_read() -> None:
    assert parsed(ROOM).render() == ROOM.strip()


# --- Rooms ---


@pytest.mark.parametrize(("dim", "boxes", "number"), [(6, 1, 40), (6, 2, 10), (7, 2, 2)])
def test_every_room_can_be_solved(dim: int, boxes: int, number: int) -> None:
    rooms = [make_room(seed, dim, boxes) for seed in range(number)]
    for room in rooms:
        assert (room.dim, len(room.boxes), len(room.targets)) == (dim, boxes, boxes)
        assert not room.boxes & room.targets and room.player not in room.boxes
        assert shortest_solution(room)
    assert len(set(rooms)) > number * 0.9


def test_large_rooms_can_be_made() -> None:
    room = make_room(0, 10, 4)
    assert len(room.boxes) == 4 and not room.boxes & room.targets


def test_the_room_of_a_seed_does_not_change() -> None:
    """Task files name rooms by seed."""
    assert make_room(0).render() == "######\n###_O#\n##___#\n#_X_P#\n#____#\n######"
    assert make_room(2, 7, 2).render() == "#######\n##__O_#\n#_P__O#\n#_X#X_#\n#_____#\n#######\n#######"


# --- Play ---


def test_the_solver_earns_the_full_reward_on_rooms_of_the_task_files() -> None:
    for task in read_tasks(str(DATA / "embedded_sokoban_heldout.jsonl"), "sokoban")[:30]:
        environment = Sokoban()
        environment.reset(task, 0)
        words = shortest_solution(environment.snapshot().room)
        steps = [environment.step(f"Thought: next.\nAction: {word}") for word in words]
        assert steps[-1].terminated and steps[-1].info["success"]
        assert sum(step.reward for step in steps) == pytest.approx(11 - 0.1 * len(words))


def test_the_first_observation_states_the_task() -> None:
    observation, _ = Sokoban().reset(TASK, 0)
    assert observation == "Push every box onto a target.\n" + make_room(0).render()
    assert "Action: right" in Sokoban().system_prompt and Sokoban(system_prompt="").system_prompt == ""


def test_rewards_are_gym_sokobans() -> None:
    environment = Sokoban(dim_room=7, num_boxes=2)
    environment.reset(TASK, 0)
    words = shortest_solution(environment.snapshot().room)
    on_target, rewards = [0], []
    for word in words:
        step = environment.step(word)
        rewards.append(step.reward)
        on_target.append(step.info["on_target"])
    changes = [after - before for before, after in zip(on_target, on_target[1:], strict=False)]
    expected = [-0.1 + change for change in changes]
    expected[-1] += 10
    assert rewards == pytest.approx(expected) and sum(changes) == 2


@pytest.mark.parametrize(
    ("action", "text"),
    [("Action: jump", "That is no action"), ("", "That is no action"), ("down\nAction: left", "The way is blocked")],
)
def test_an_action_without_effect_is_told_and_costs_a_step(action: str, text: str) -> None:
    environment = Sokoban()
    environment.reset(Sokoban.task({"seed": 1}), 0)
    before = environment.snapshot()
    step = environment.step(action)
    assert step.observation.startswith(text) and step.observation.endswith(before.room.render())
    assert step.info["error"] and step.reward == -0.1
    assert environment.snapshot().room == before.room


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ("Action: up", "up"),
        ("Thought: go left, not up.\nAction: DOWN.", "down"),
        ("up, then right", "right"),
        ("Action: up\nAction: left", "left"),
        ("I push it down.\nAction: jump", None),
        ("upwards rightly", None),
        ("", None),
    ],
)
def test_the_last_admissible_word_is_the_action(answer: str, word: str | None) -> None:
    assert parse_move(answer) == word


# --- Rows and options ---


def test_rows_name_seed_and_size() -> None:
    assert (TASK.key, TASK.data) == ("room-0", {"seed": 0})
    task = Sokoban.task({"task_id": "x", "seed": 3, "dim_room": 8, "num_boxes": 2})
    assert (task.key, task.data) == ("x", {"seed": 3, "dim_room": 8, "num_boxes": 2})
    environment = Sokoban()
    observation, _ = environment.reset(task, 0)
    assert observation.count("X") == 2 and len(observation.splitlines()) == 9
    assert Sokoban.task(build_verl_row(task, "train", 0)) == task


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({}, "no seed"),
        ({"seed": "3"}, "seed is '3'; expected an integer"),
        ({"seed": True}, "seed is True"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1, "dim_room": 3}, "dim_room is 3; expected 5 to 20"),
        ({"seed": 1, "num_boxes": 81}, "num_boxes is 81; expected 1 to 80"),
        ({"seed": 1, "dim_room": 6, "num_boxes": 4}, "num_boxes is 4; expected 1 to 3 where dim_room is 6"),
        ({"reward_model": {"ground_truth": "x"}}, "ground_truth is not JSON"),
        ({"reward_model": {}}, "expected an object with ground_truth"),
    ],
)
def test_a_row_that_is_no_task_is_refused(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Sokoban.task(row)


@pytest.mark.parametrize(("option", "value"), [("horizon", 0), ("dim_room", 4), ("num_boxes", 5)])
def test_an_option_out_of_range_is_refused(option: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"leafe\.environment\.options.*{option} is {value}; expected"):
        make("sokoban", **{option: value})


def test_the_embedded_task_files_are_disjoint() -> None:
    files = (str(DATA / f"embedded_sokoban_{split}.jsonl") for split in ("train", "heldout"))
    train, held_out = (read_tasks(path, "sokoban") for path in files)
    assert len(train) >= 96 and len(held_out) >= 32
    rooms = [{make_room(task.data["seed"]) for task in tasks} for tasks in (train, held_out)]
    assert not rooms[0] & rooms[1]
