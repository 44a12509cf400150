"""An OpenEnv server by its URL. Rollback resets the session, repeats the actions and checks every observation."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Mapping
from typing import Any

from leafe_verl.core.environment import ROUNDING, ReplayEnvironment, Step
from leafe_verl.core.task import Task
from leafe_verl.core.text import read_json, without_surrogates
from leafe_verl.environments.extras import require_extra
from leafe_verl.environments.options import SETTING, require_whole
from leafe_verl.environments.rows import read_count, read_fields, task_key, without_nulls

NAME = "openenv"
EXTRA = {"openenv": "openenv"}
COMMON = ("done", "reward", "metadata")
"""Fields that every observation of OpenEnv has; the rest is what it shows."""
_REFUSED = "VALIDATION_ERROR"
"""OpenEnv's code for an action that does not fit the server's schema."""


class OpenEnv(ReplayEnvironment):
    """A session of an OpenEnv server, over a WebSocket. It succeeds if it is done with a return of `success_at`.

    An action is the text of one field of the server's action, or else an object in JSON, as the server's schema says.
    A server whose sessions share state, or that reads a clock, answers a replay otherwise and is refused with that.
    """

    def __init__(
        self,
        url: str,
        action_field: str | None = None,
        observation_field: str | None = None,
        error: str | None = None,
        success_at: float = 1.0,
        horizon: int = 30,
        system_prompt: str = "",
        timeout: float = 60.0,
    ) -> None:
        """`url`: such as http://localhost:8000. `timeout`: seconds for a connection and for an answer.

        `action_field`: the field of an action that an answer fills; None: the only required text of the server's
        schema, or the whole object if there is no such one. `observation_field`: the field that is shown; None: the
        only one beside `done`, `reward` and `metadata`, or all of them in JSON. `error`: a pattern of observations that
        report an error, which OpenEnv has no sign for. Raises ModuleNotFoundError without openenv, and ValueError if no
        server answers.
        """
        require_extra(NAME, EXTRA)
        require_whole(1, horizon=horizon)
        self._url, self._timeout = url, timeout
        self._schema = _read_schema(url, timeout)
        self._action_field = action_field or _only_text(self._schema)
        self._observation_field = observation_field
        self._error = None if error is None else re.compile(error)
        self.horizon, self.system_prompt, self._success_at = horizon, system_prompt, success_at
        self._session: Any = None

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Return the task of a row with `seed` and `options`, which are what the server's `reset` gets. Both may lack.

        Raises ValueError that says what came and what was expected.
        """
        fields = read_fields(row)
        seed, options = read_count(fields, "seed"), fields.get("options") or {}
        if not isinstance(options, Mapping):
            raise ValueError(f"options is {options!r:.80}; expected an object for reset, or none")
        data = {**({} if seed is None else {"seed": seed}), "options": without_nulls(options)}
        return Task(task_key(fields, default_key), str(fields.get("text") or ""), NAME, data)

    def start(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        if self._session is None:
            self._session = _connect(self._url, self._timeout)
        self._total = 0.0
        result = self._session.reset(seed=task.data.get("seed", seed), **task.data["options"])
        return self._show(result.observation), {}

    def advance(self, action: str) -> Step:
        if self._session is None:
            raise RuntimeError("no task is being played; call reset or restore first")
        try:
            result = self._session.step(self._form(action))
        except _IllFormed as problem:
            return _refuse(str(problem))
        except RuntimeError as problem:
            if _REFUSED not in str(problem):
                raise
            return _refuse(str(problem))
        reward, told = float(result.reward or 0.0), self._show(result.observation)
        self._total += reward
        success = bool(result.done) and self._total >= self._success_at - ROUNDING
        error = self._error is not None and self._error.search(told) is not None
        return Step(told, reward, bool(result.done), False, {"success": success, "error": error})

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _form(self, action: str) -> dict[str, Any]:
        """Return the server's action. Raises _IllFormed if an answer is none."""
        readable = without_surrogates(action)
        if self._action_field is not None:
            return {self._action_field: readable}
        try:
            made = read_json(readable)
        except ValueError:  # no JSON, numbers of too many digits, or too many brackets
            made = None
        if not isinstance(made, dict):
            raise _IllFormed(
                f"Answer with one JSON object of this schema, and nothing else: {json.dumps(self._schema)}"
            )
        return made

    def _show(self, observation: Mapping[str, Any]) -> str:
        shown = {name: value for name, value in observation.items() if name not in COMMON}
        if self._observation_field is not None:
            shown = {self._observation_field: observation[self._observation_field]}
        only = next(iter(shown.values())) if len(shown) == 1 else shown
        return without_surrogates(only if isinstance(only, str) else json.dumps(only, ensure_ascii=False))


class _IllFormed(Exception):
    """An answer is no action; the message is feedback for the model."""


def _refuse(problem: str) -> Step:
    return Step(problem, 0.0, False, False, {"success": False, "error": True})


def _connect(url: str, timeout: float) -> Any:
    from openenv.core.generic_client import GenericEnvClient

    return GenericEnvClient(url, connect_timeout_s=timeout, message_timeout_s=timeout).sync().connect()


def _read_schema(url: str, timeout: float) -> dict[str, Any]:
    """Return the schema of the server's actions. Raises ValueError if there is none at this address."""
    address = f"{re.sub('^ws', 'http', url).rstrip('/')}/schema"
    try:
        with urllib.request.urlopen(address, timeout=timeout) as answer:
            schema: dict[str, Any] = json.load(answer)["action"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{SETTING}.url is {url!r}: no OpenEnv server answers {address} ({error})") from error
    return schema


def _only_text(schema: Mapping[str, Any]) -> str | None:
    """Return the only required field of an action if it is a text."""
    required = schema.get("required", [])
    fields = schema.get("properties", {})
    return required[0] if len(required) == 1 and fields[required[0]].get("type") == "string" else None
