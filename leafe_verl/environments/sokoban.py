"""Sokoban in text: push every box onto a target. Rooms are made by reverse play, so that each can be solved."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from leafe_verl.core.environment import Step
from leafe_verl.core.task import Task
from leafe_verl.environments.react import FORM, extract_action
from leafe_verl.environments.rows import build_verl_row, read_count, read_fields, task_key

NAME = "sokoban"
INSTRUCTION = "Push every box onto a target."
DIM_ROOM, NUM_BOXES, HORIZON = 6, 1, 30
SYSTEM_PROMPT = f"""\
You play Sokoban. Push every box onto a target. You push a box by walking into it; it moves one cell if the cell \
behind it is free. You cannot pull a box, nor push two at once, so a box in a corner is stuck.
Symbols: # wall, _ floor, O target, X box, √ box on a target, P you, S you on a target.
Actions: up, down, left, right.
{FORM.format(thought="The box is to my right and its target lies beyond it.", action="right")}"""
STEP_REWARD, ON_TARGET_REWARD, OFF_TARGET_REWARD, SOLVED_REWARD = -0.1, 1.0, -1.0, 10.0
"""gym-sokoban's (`sokoban_env.py` of mpSchrader/gym-sokoban)."""

Cell = tuple[int, int]
"""Row and column, from the upper left."""
MOVES: Mapping[str, Cell] = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


@dataclass(frozen=True)
class Room:
    """Walls, targets, boxes and the player; what happens in it is a new one."""

    dim: int
    """Rows and columns, walls included."""
    floor: frozenset[Cell]
    """Every cell that is no wall, targets included."""
    targets: frozenset[Cell]
    boxes: frozenset[Cell]
    player: Cell

    @property
    def solved(self) -> bool:
        return self.boxes == self.targets

    def is_free(self, cell: Cell) -> bool:
        return cell in self.floor and cell not in self.boxes

    def moved(self, move: Cell) -> Room:
        """Return the room after the player tried to go; the same one where the way is blocked."""
        ahead = _add(self.player, move)
        behind = _add(ahead, move)
        if ahead in self.boxes and self.is_free(behind):
            return replace(self, boxes=self.boxes - {ahead} | {behind}, player=ahead)
        return replace(self, player=ahead) if self.is_free(ahead) else self

    def render(self) -> str:
        """Return one line a row, in the symbols of SYSTEM_PROMPT."""
        size = range(self.dim)
        return "\n".join("".join(self._symbol((row, column)) for column in size) for row in size)

    def _symbol(self, cell: Cell) -> str:
        on_target = cell in self.targets
        if cell == self.player:
            return "S" if on_target else "P"
        if cell in self.boxes:
            return "√" if on_target else "X"
        if cell not in self.floor:
            return "#"
        return "O" if on_target else "_"


@dataclass(frozen=True)
class SokobanSnapshot:
    task: Task
    room: Room
    turns: int = 0
    """Actions taken."""


class Sokoban:
    """Core's Environment. An attempt's return is the sum of gym-sokoban's rewards.

    A task names the room by its seed, and may name its size and boxes. A blocked or unknown action changes nothing,
    is told, and costs a step.
    """

    def __init__(
        self,
        dim_room: int = DIM_ROOM,
        num_boxes: int = NUM_BOXES,
        horizon: int = HORIZON,
        system_prompt: str = SYSTEM_PROMPT,
    ) -> None:
        """`dim_room`: rows and columns, walls included, and `num_boxes`: of a task that does not name its own.

        `horizon`: actions after which an unsolved attempt is truncated. The paper's rooms for large models are 10x10
        with 3 or 4 boxes.
        """
        if horizon < 1:
            raise ValueError(f"leafe.environment.options.horizon is {horizon!r}; expected at least 1")
        if problem := _problem_with(dim_room, num_boxes):
            raise ValueError(f"leafe.environment.options: {problem}")
        self.dim_room, self.num_boxes = dim_room, num_boxes
        self.horizon = horizon
        self.system_prompt = system_prompt
        self._state: SokobanSnapshot | None = None

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Return the task of a row: {"seed": n}, perhaps with dim_room and num_boxes, or verl's parquet row.

        The key is `task_id`, by default made of the room. Raises ValueError that says what came and what was expected.
        """
        fields = read_fields(row)
        numbers = {name: read_count(fields, name) for name in ("seed", "dim_room", "num_boxes")}
        data = {name: number for name, number in numbers.items() if number is not None}
        if "seed" not in data:
            raise ValueError("no seed; expected the integer that a room is made from")
        if problem := _problem_with(data.get("dim_room", DIM_ROOM), data.get("num_boxes", NUM_BOXES)):
            raise ValueError(problem)
        return Task(task_key(fields, "-".join(["room", *map(str, data.values())])), INSTRUCTION, NAME, data)

    @classmethod
    def verl_row(cls, task: Task, split: str, index: int) -> dict[str, Any]:
        """Return verl's parquet row, which `task` reads back."""
        return build_verl_row(task, "planning", split, index)

    def reset(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        data = {"dim_room": self.dim_room, "num_boxes": self.num_boxes, **task.data}
        room = make_room(data["seed"], data["dim_room"], data["num_boxes"])
        self._state = SokobanSnapshot(task, room)
        return f"{task.instruction}\n{room.render()}", {}

    def step(self, action: str) -> Step:
        state = self._playing()
        word = parse_move(action)
        room = state.room.moved(MOVES[word]) if word else state.room
        self._state = replace(state, room=room, turns=state.turns + 1)
        error = room == state.room
        note = _BLOCKED if word else _UNKNOWN
        return Step(
            observation=f"{note}\n{room.render()}" if error else room.render(),
            reward=_reward(state.room, room),
            terminated=room.solved,
            truncated=not room.solved and self._state.turns >= self.horizon,
            info={"success": room.solved, "error": error, "on_target": len(room.boxes & room.targets)}
            | ({"action": word} if word else {}),
        )

    def snapshot(self) -> SokobanSnapshot:
        return self._playing()

    def restore(self, snapshot: SokobanSnapshot) -> int:
        self._state = snapshot
        return 0

    def close(self) -> None:
        """Nothing is held."""

    def _playing(self) -> SokobanSnapshot:
        if self._state is None:
            raise RuntimeError("no task is being played; call reset or restore first")
        return self._state


_UNKNOWN = f"That is no action, and nothing moved. Actions: {', '.join(MOVES)}."
_BLOCKED = "The way is blocked, and nothing moved."
_WORD = re.compile(rf"\b(?:{'|'.join(MOVES)})\b", re.IGNORECASE)


def parse_move(answer: str) -> str | None:
    """Return the move in an answer, one of MOVES; None where it holds none. See `react.extract_action`."""
    word = extract_action(answer, _WORD)
    return word and word.lower()


def _reward(before: Room, after: Room) -> float:
    change = len(after.boxes & after.targets) - len(before.boxes & before.targets)
    reward = STEP_REWARD + max(change, 0) * ON_TARGET_REWARD + max(-change, 0) * OFF_TARGET_REWARD
    return reward + SOLVED_REWARD if after.solved else reward


# --- Rooms ---

ROOM_TRIES = 1000
"""Floor plans of one seed before giving up; a plan fails when its boxes cannot be pulled far enough."""
PLAYS = 8
"""Reverse plays in one floor plan; the one that leaves the boxes furthest from the targets is kept."""
PULLS_PER_BOX = 12
MIN_DIM, MAX_DIM = 5, 20


@functools.lru_cache(maxsize=1024)
def make_room(seed: int, dim_room: int = DIM_ROOM, num_boxes: int = NUM_BOXES) -> Room:
    """Return the room of a seed: the same on every machine. The boxes begin off the targets, two cells away on average.

    It begins solved and is played backwards, pulling boxes; played forwards, that is a solution. Raises ValueError
    where the boxes do not fit.
    """
    if problem := _problem_with(dim_room, num_boxes):
        raise ValueError(problem)
    randomness = random.Random(f"{NAME} {seed} {dim_room} {num_boxes}")
    for _ in range(ROOM_TRIES):
        floor = _floor_plan(randomness, dim_room)
        if len(floor) < 4 * num_boxes + 3:
            continue
        *targets, player = randomness.sample(sorted(floor), num_boxes + 1)
        solved = Room(dim_room, floor, frozenset(targets), frozenset(targets), player)
        plays = [_play_backwards(randomness, solved) for _ in range(PLAYS)]
        apart = [room for room in plays if not room.boxes & room.targets and _distance(room) >= 2 * num_boxes]
        if apart:
            return max(apart, key=_distance)
    raise ValueError(f"no room of {dim_room}x{dim_room} with {num_boxes} boxes in {ROOM_TRIES} tries; use a larger one")


def _floor_plan(randomness: random.Random, dim: int) -> frozenset[Cell]:
    """A random walk, two cells wide so that the player can get around a box."""
    inner = range(1, dim - 1)
    cell = (randomness.choice(inner), randomness.choice(inner))
    move, floor = (0, 1), set()
    for _ in range(3 * len(inner) ** 2 // 2):
        floor |= {cell, (cell[0], max(cell[1] - 1, 1)), (max(cell[0] - 1, 1), cell[1])}
        if randomness.random() < 0.4:
            move = randomness.choice(list(MOVES.values()))
        ahead = _add(cell, move)
        if ahead[0] in inner and ahead[1] in inner:
            cell = ahead
    return frozenset(floor)


def _play_backwards(randomness: random.Random, room: Room) -> Room:
    for _ in range(PULLS_PER_BOX * len(room.boxes)):
        pulls = list(_pulls(room))
        if not pulls:
            break
        room = randomness.choice(pulls)
    return replace(room, player=randomness.choice(sorted(_reachable(room))))


def _pulls(room: Room) -> Iterator[Room]:
    """Each room before a push that leads to this one, once the player has walked to where the push ends."""
    reachable = _reachable(room)
    for box in sorted(room.boxes):
        for move in MOVES.values():
            after = _add(box, (-move[0], -move[1]))
            before = _add(after, (-move[0], -move[1]))
            if after in reachable and room.is_free(before):
                yield replace(room, boxes=room.boxes - {box} | {after}, player=before)


def _reachable(room: Room) -> set[Cell]:
    """Cells that the player can walk to."""
    found, edge = {room.player}, [room.player]
    while edge:
        cell = edge.pop()
        for move in MOVES.values():
            neighbour = _add(cell, move)
            if neighbour not in found and room.is_free(neighbour):
                found.add(neighbour)
                edge.append(neighbour)
    return found


def _distance(room: Room) -> int:
    """Of each box to its nearest target, in steps without walls, summed."""
    return sum(min(abs(box[0] - to[0]) + abs(box[1] - to[1]) for to in room.targets) for box in room.boxes)


def _add(cell: Cell, move: Cell) -> Cell:
    return cell[0] + move[0], cell[1] + move[1]


def _problem_with(dim_room: int, num_boxes: int) -> str | None:
    if not MIN_DIM <= dim_room <= MAX_DIM:
        return f"dim_room is {dim_room!r}; expected {MIN_DIM} to {MAX_DIM}"
    most = (dim_room - 2) ** 2 // 4
    if not 1 <= num_boxes <= most:
        return f"num_boxes is {num_boxes!r}; expected 1 to {most} where dim_room is {dim_room}"
    return None
