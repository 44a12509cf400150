"""Sokoban in text: push every box onto a target. `sokoban_rooms.py` has the rules and makes the rooms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from leafe_verl.core.environment import Step
from leafe_verl.core.task import Task
from leafe_verl.environments.options import SETTING, require_whole
from leafe_verl.environments.react import FORM, extract_action
from leafe_verl.environments.rows import read_count, read_fields, task_key
from leafe_verl.environments.sokoban_rooms import (
    DIM_ROOM,
    MAX_DIM,
    MOVES,
    NUM_BOXES,
    Room,
    find_size_problem,
    make_room,
)
from leafe_verl.environments.state_environment import StateEnvironment

NAME = "sokoban"
INSTRUCTION = "Push every box onto a target."
HORIZON = 30
SYSTEM_PROMPT = f"""\
You play Sokoban. Push every box onto a target. You push a box by walking into it; it moves one cell if the cell \
behind it is free. You cannot pull a box, nor push two at once, so a box in a corner is stuck.
Symbols: # wall, _ floor, O target, X box, √ box on a target, P you, S you on a target.
Actions: up, down, left, right.
{FORM.format(thought="The box is to my right and its target lies beyond it.", action="right")}"""
STEP_REWARD, ON_TARGET_REWARD, OFF_TARGET_REWARD, SOLVED_REWARD = -0.1, 1.0, -1.0, 10.0
"""The rewards of gym-sokoban (`sokoban_env.py` of mpSchrader/gym-sokoban)."""


@dataclass(frozen=True)
class SokobanState:
    task: Task
    room: Room


class Sokoban(StateEnvironment[SokobanState]):
    """An attempt's return is the sum of gym-sokoban's rewards.

    A task names its room by a seed, and may name the room's size and number of boxes. A blocked or unknown action
    changes nothing and costs a step; the observation says so.
    """

    ability = "planning"

    def __init__(
        self,
        dim_room: int = DIM_ROOM,
        num_boxes: int = NUM_BOXES,
        horizon: int = HORIZON,
        system_prompt: str = SYSTEM_PROMPT,
    ) -> None:
        """`dim_room`, `num_boxes`: rows and columns (walls included) and boxes of tasks that do not name their own.

        `horizon`: actions after which an attempt ends. The paper's rooms for large models are 10x10 with 3 or 4 boxes.
        """
        require_whole(1, horizon=horizon)
        if problem := find_size_problem(dim_room, num_boxes):
            raise ValueError(f"{SETTING}: {problem}")
        self.dim_room, self.num_boxes = dim_room, num_boxes
        self.horizon = horizon
        self.system_prompt = system_prompt

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Return the task of {"seed": n}, with or without dim_room and num_boxes, or of a row of verl's parquet files.

        The key is `task_id`, by default made of the room's numbers. Raises ValueError that says what came and what was
        expected.
        """
        fields = read_fields(row)
        numbers = {name: read_count(fields, name) for name in ("seed", "dim_room", "num_boxes")}
        data = {name: number for name, number in numbers.items() if number is not None}
        if "seed" not in data:
            raise ValueError("no seed; expected the integer that a room is made from")
        # What the row does not name, the options do.
        if problem := find_size_problem(data.get("dim_room", MAX_DIM), data.get("num_boxes", 1)):
            raise ValueError(problem)
        return Task(task_key(fields, "-".join(["room", *map(str, data.values())])), INSTRUCTION, NAME, data)

    def reset(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        data = {"dim_room": self.dim_room, "num_boxes": self.num_boxes, **task.data}
        room = make_room(data["seed"], data["dim_room"], data["num_boxes"])
        self.state = SokobanState(task, room)
        return f"{task.instruction}\n{room.render()}", {}

    def step(self, action: str) -> Step:
        before = self.state.room
        move = parse_move(action)
        room = before.moved(MOVES[move]) if move else before
        self.state = replace(self.state, room=room)
        error = room == before
        note = _BLOCKED if move else _UNKNOWN
        return Step(
            observation=f"{note}\n{room.render()}" if error else room.render(),
            reward=_reward(before, room),
            terminated=room.solved,
            truncated=False,
            info={"success": room.solved, "error": error, "on_target": len(room.boxes & room.targets)}
            | ({"action": move} if move else {}),
        )


_UNKNOWN = f"That is no action, and nothing moved. Actions: {', '.join(MOVES)}."
_BLOCKED = "The way is blocked, and nothing moved."
_WORD = re.compile(rf"\b(?:{'|'.join(MOVES)})\b", re.IGNORECASE)


def parse_move(answer: str) -> str | None:
    """Return the move in an answer, one of MOVES, or None. `react.extract_action` skips directions in a thought."""
    word = extract_action(answer, _WORD)
    return word and word.lower()


def _reward(before: Room, after: Room) -> float:
    change = len(after.boxes & after.targets) - len(before.boxes & before.targets)
    reward = STEP_REWARD + max(change, 0) * ON_TARGET_REWARD + max(-change, 0) * OFF_TARGET_REWARD
    return reward + SOLVED_REWARD if after.solved else reward
