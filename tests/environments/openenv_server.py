"""A server of OpenEnv with a game of numbers, in a thread of this process."""

from __future__ import annotations

import functools
import itertools
import os
import threading
import time
from typing import Any

os.environ.setdefault("PATH", os.defpath)  # a library that OpenEnv's server imports reads it

import uvicorn
from openenv.core.env_server import Action, Environment, Observation, State
from openenv.core.env_server.http_server import create_fastapi_app

_ticks = itertools.count()


class Guess(Action):
    text: str


class Told(Observation):
    text: str = ""


class Game(Environment):  # type: ignore[misc]
    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed: int | None = None, episode_id: str | None = None, **options: Any) -> Told:
        self.number, self.tries = options.get("number", 42), 0
        return Told(text=f"Guess a number. The seed is {seed}.")

    def step(self, action: Guess, timeout_s: float | None = None, **kwargs: Any) -> Told:
        self.tries += 1
        if action.text == "time":
            return Told(text=f"It is {next(_ticks)} o'clock.", reward=0.0)
        if not action.text.isdecimal() or len(action.text) > 3:
            return Told(text=f"Try {self.tries}: not a number.", reward=0.0)
        if int(action.text) == self.number:
            return Told(text="That is it.", reward=1.0, done=True)
        return Told(text=f"Try {self.tries}: {'lower' if int(action.text) > self.number else 'higher'}.", reward=0.0)

    @property
    def state(self) -> State:
        return State(step_count=self.tries)


@functools.lru_cache(maxsize=1)
def server_url() -> str:
    """Start the server once in this process and return its address."""
    app = create_fastapi_app(Game, Guess, Told, max_concurrent_envs=200)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


def new_environment(**options: Any) -> Any:
    """Return an environment that plays on the server."""
    from leafe_verl.environments import make

    return make("openenv", url=server_url(), error="not a number", **options)
