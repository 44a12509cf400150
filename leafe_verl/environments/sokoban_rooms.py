"""Sokoban's rooms: their rules, and how a room is made from a seed.

A room is made by reverse play from its solved state, so that each room can be solved.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

DIM_ROOM, NUM_BOXES = 6, 1
MIN_DIM, MAX_DIM = 5, 20
Cell = tuple[int, int]
"""Row and column, counted from the upper left."""
MOVES: Mapping[str, Cell] = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


@dataclass(frozen=True)
class Room:
    """A position: walls, targets, boxes and the player. A move makes a new one."""

    dim: int
    """Rows and columns, walls included."""
    floor: frozenset[Cell]
    """Every cell that is not a wall, targets included."""
    targets: frozenset[Cell]
    boxes: frozenset[Cell]
    player: Cell

    @property
    def solved(self) -> bool:
        return self.boxes == self.targets

    def is_free(self, cell: Cell) -> bool:
        return cell in self.floor and cell not in self.boxes

    def moved(self, move: Cell) -> Room:
        """Return the room after the player tried to move; the same room if the way is blocked."""
        ahead = _add(self.player, move)
        behind = _add(ahead, move)
        if ahead in self.boxes and self.is_free(behind):
            return replace(self, boxes=self.boxes - {ahead} | {behind}, player=ahead)
        return replace(self, player=ahead) if self.is_free(ahead) else self

    def render(self) -> str:
        """Return the room as text, a line per row, in the symbols that `sokoban.SYSTEM_PROMPT` explains."""
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


ROOM_TRIES = 1000
"""Floor plans to try for one seed. A plan fails if the boxes cannot be pulled far enough."""
PLAYS = 8
"""Reverse plays in one floor plan. The one that leaves the boxes furthest from the targets is kept."""
PULLS_PER_BOX = 12
"""Pulls of one reverse play, per box."""


@functools.lru_cache(maxsize=1024)
def make_room(seed: int, dim_room: int = DIM_ROOM, num_boxes: int = NUM_BOXES) -> Room:
    """Return the room of a seed, which is the same on every machine.

    No box starts on a target; on average a box is at least two cells from one. The room is made from its solved state
    by pulling boxes; the same moves in reverse are a solution. Raises ValueError if the boxes do not fit.
    """
    if problem := find_size_problem(dim_room, num_boxes):
        raise ValueError(problem)
    randomness = random.Random(f"sokoban {seed} {dim_room} {num_boxes}")
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
    """Return the cells of a random walk. It is two cells wide, so that the player can get around a box."""
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
    """Yield each room from which one push, and then a walk of the player, leads to this one."""
    reachable = _reachable(room)
    for box in sorted(room.boxes):
        for move in MOVES.values():
            after = _add(box, (-move[0], -move[1]))
            before = _add(after, (-move[0], -move[1]))
            if after in reachable and room.is_free(before):
                yield replace(room, boxes=room.boxes - {box} | {after}, player=before)


def _reachable(room: Room) -> set[Cell]:
    """Return the cells that the player can walk to."""
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
    """Return the sum over the boxes of the distance to the nearest target, in steps that ignore walls."""
    return sum(min(abs(box[0] - to[0]) + abs(box[1] - to[1]) for to in room.targets) for box in room.boxes)


def _add(cell: Cell, move: Cell) -> Cell:
    return cell[0] + move[0], cell[1] + move[1]


def find_size_problem(dim_room: int, num_boxes: int) -> str | None:
    """Return why there are no rooms of this size, with what was expected; None if there are."""
    if not MIN_DIM <= dim_room <= MAX_DIM:
        return f"dim_room is {dim_room!r}; expected {MIN_DIM} to {MAX_DIM}"
    most = ((dim_room - 2) ** 2 - 3) // 4
    if not 1 <= num_boxes <= most:
        return f"num_boxes is {num_boxes!r}; expected 1 to {most} where dim_room is {dim_room}"
    return None
