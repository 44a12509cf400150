"""The games of TextArena, through the adapter for environments of Gymnasium's form."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from leafe_verl.core.text import without_surrogates
from leafe_verl.environments.extras import require_extra
from leafe_verl.environments.gymnasium_text import GymnasiumText, import_callable
from leafe_verl.environments.options import SETTING
from leafe_verl.environments.own_randomness import OwnRandomness

NAME = "textarena"
EXTRA = {"textarena": "textarena"}
PLAYER = 0
"""The seat that the policy plays."""


class TextArena(GymnasiumText):
    """A game of TextArena. Its reward at the end is the attempt's return, and a return of at least 1 is success.

    Tasks are rows of a `seed` and a key, as of `gymnasium`. An invalid move is an error, and most games end with the
    second one in a row.
    """

    name = NAME

    def __init__(
        self,
        game: str,
        num_players: int = 1,
        opponent: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        snapshot: str = "replay",
        horizon: int = 30,
        system_prompt: str = "",
        react: bool = False,
    ) -> None:
        """`game`: TextArena's id, such as GuessTheNumber-v0; `kwargs`: what its constructor takes instead of its own.

        `opponent`: `package.module:callable`, called with the seed at the start of a task. It returns what plays all
        other seats: a callable from the observation to an action. It must give the same actions in a replay; one that
        does not, and that can be pickled, is rolled back with `snapshot` `copy`. The other options are those of
        `gymnasium`. Raises ModuleNotFoundError without textarena, and ValueError for an unknown game.
        """
        require_extra(NAME, EXTRA)
        _check_game(game)
        if num_players > 1 and opponent is None:
            raise ValueError(
                f"{num_players} players, and {SETTING}.opponent is not set; expected package.module:callable"
            )
        made = {"game": game, "num_players": num_players, "opponent": opponent, "kwargs": dict(kwargs or {})}
        super().__init__(f"{__name__}:Game", made, snapshot, horizon, system_prompt, react)


class Game:
    """A game of TextArena with the interface of Gymnasium. The first player is the policy."""

    def __init__(self, game: str, num_players: int, opponent: str | None, kwargs: Mapping[str, Any]) -> None:
        self._new_opponent = None if opponent is None else import_callable(opponent, "opponent")
        self._opponent: Callable[[str], str] | None = None
        self._num_players = num_players
        self._randomness = OwnRandomness(0)
        with self._randomness.in_use():
            self._game = _make(game, kwargs)

    def reset(self, *, seed: int, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self._randomness = OwnRandomness(seed)
        with self._randomness.in_use():
            self._opponent = self._new_opponent(seed) if self._new_opponent else None
            self._game.reset(num_players=self._num_players, seed=seed)
            self._let_others_play(done=False)
            return self._observe(), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Make a move, and those of the others. Once the game is over, the observation gives the reason."""
        state = self._game.state
        with self._randomness.in_use():
            errors = getattr(state, "error_count", 0)
            done = bool(self._game.step(action)[0])
            error = getattr(state, "error_count", 0) > errors
            if not self._let_others_play(done):
                return self._observe(), 0.0, False, False, {"success": False, "error": error}
            rewards, about = self._game.close()
        reward, end = float((rewards or {}).get(PLAYER, 0.0)), about.get(PLAYER, {})
        told = {"success": reward >= 1, "error": bool(end.get("invalid_move"))}
        return str(end.get("reason") or "The game is over."), reward, True, False, told

    def _let_others_play(self, done: bool) -> bool:
        """Play the other seats until it is the policy's turn. Returns whether the game is over."""
        while not done and self._game.state.current_player_id != PLAYER:
            assert self._opponent is not None
            done = bool(self._game.step(self._opponent(self._observe()))[0])
        return done

    def _observe(self) -> str:
        """Return what the present player has been told since its last move, without that move itself."""
        from textarena import ObservationType

        player, messages = self._game.get_observation()
        actions = (ObservationType.PLAYER_ACTION,)
        told = [
            f"[Player {sender}] {text}" if kind in actions else text
            for sender, text, kind in messages
            if not (kind in actions and sender == player)
        ]
        return without_surrogates("\n".join(told))


def _make(game: str, kwargs: Mapping[str, Any]) -> Any:
    """Return a game without wrappers, whose observations hold what is new instead of everything so far."""
    import textarena
    from textarena.envs.registration import ENV_REGISTRY

    raw = f"{game}-raw"
    return textarena.make(raw if raw in ENV_REGISTRY else game, **kwargs)


def _check_game(game: str) -> None:
    from textarena.envs.registration import ENV_REGISTRY

    if game not in ENV_REGISTRY:
        near = ", ".join(difflib.get_close_matches(game, ENV_REGISTRY, 3, 0.3)) or "one of textarena.ENV_REGISTRY"
        raise ValueError(f"{SETTING}.game is {game!r}; expected a game of TextArena, such as {near}")
