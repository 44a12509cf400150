"""The games of TextArena: seats, ends, errors, and randomness that attempts do not share."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("textarena", reason="needs pip install leafe-verl[textarena]")

from leafe_verl.core.environment import ReplayDivergence
from leafe_verl.environments import make
from leafe_verl.environments.own_randomness import OwnRandomness
from leafe_verl.environments.textarena import TextArena

TASK = TextArena.task({"task_id": "a", "seed": 1})


def first_free_cell(seed: int) -> Callable[[str], str]:
    """Plays tic-tac-toe: the first of the available moves."""
    return lambda observation: observation.rpartition("Available Moves: ")[2].strip(" '[]").split("'")[0].strip("[]'")


def drawn_cell(seed: int) -> Callable[[str], str]:
    """Draws its moves from a generator that no replay repeats."""
    chance = random.Random()
    return lambda observation: f"[{chance.choice([n for n in range(9) if f'[{n}]' in observation])}]"


def seeded_cell(seed: int) -> Callable[[str], str]:
    """Draws its moves from the global generator, which each game has for itself."""
    return lambda observation: f"[{random.choice([n for n in range(9) if f'[{n}]' in observation])}]"


def tic_tac_toe(opponent: str) -> Any:
    return make("textarena", game="TicTacToe-v0", num_players=2, opponent=f"environments.test_textarena:{opponent}")


def test_a_frozen_lake_is_crossed_or_not() -> None:
    lake = make("textarena", game="FrozenLake-v0", kwargs={"num_holes": 1})
    observation, _ = lake.reset(TASK, 0)
    assert "Frozen Lake" in observation
    steps = [lake.step(f"[{move}]") for move in ("right", "fly")]
    assert [(step.terminated, step.info["error"]) for step in steps] == [(False, False), (False, True)]
    assert "invalid move" in steps[1].observation
    end = lake.step("[fly]")
    assert (
        end.terminated and end.info["error"] and not end.info["success"] and end.observation.startswith("Invalid Move")
    )


def test_an_opponent_plays_the_other_seat_and_is_replayed() -> None:
    game = tic_tac_toe("seeded_cell")
    assert "Tic Tac Toe" in game.reset(TASK, 0)[0]
    step = game.step("[4]")
    assert "[Player 1]" in step.observation and not step.terminated
    snapshot = game.snapshot()
    random.seed(3)
    assert game.restore(snapshot) == 1 and game.snapshot() == snapshot


def test_an_opponent_that_moves_otherwise_is_found_out() -> None:
    game = tic_tac_toe("drawn_cell")
    game.reset(TASK, 0)
    game.step("[4]")
    snapshot = game.snapshot()
    with pytest.raises(ReplayDivergence, match="'textarena' must be deterministic given task, seed and actions"):
        for _ in range(30):
            game.restore(snapshot)


def test_games_leave_the_global_generators_alone() -> None:
    random.seed(5)
    expected = random.Random(5).random()
    game = make("textarena", game="GuessTheNumber-v0")
    game.reset(TASK, 0)
    game.step("[3]")
    assert random.random() == expected


def test_threads_draw_as_if_alone() -> None:
    def draw(seed: int, drawn: list[float]) -> None:
        own = OwnRandomness(seed)
        for _ in range(50):
            with own.in_use():
                drawn.append(random.random())

    drawn: list[list[float]] = [[] for _ in range(3)]
    threads = [threading.Thread(target=draw, args=(seed, drawn[seed])) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = [random.Random(seed) for seed in range(3)]
    assert drawn == [[each.random() for _ in range(50)] for each in alone]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"game": "FrozenLake"}, r"options\.game is 'FrozenLake'; expected a game of TextArena, such as FrozenLake-v0"),
        (
            {"game": "TicTacToe-v0", "num_players": 2},
            r"2 players, and leafe\.environment\.options\.opponent is not set",
        ),
        ({"game": "FrozenLake-v0", "opponent": "math:pi", "num_players": 2}, r"options\.opponent is 'math:pi'"),
    ],
)
def test_options_that_lead_nowhere_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make("textarena", **options).reset(TASK, 0)
