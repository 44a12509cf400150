"""An environment of `verifiers` by its module's name: its own rollout runs, and the policy takes the model's place."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from leafe_verl.core.environment import ROUNDING, EnvironmentFailure, ReplayEnvironment, Step
from leafe_verl.core.task import Task
from leafe_verl.environments.extras import require_extra
from leafe_verl.environments.options import SETTING, require_whole
from leafe_verl.environments.rows import read_count, read_fields, task_key
from leafe_verl.environments.tool_calls import CallReader, IllFormedCall
from leafe_verl.environments.verifiers_rollout import Rollout, field, since_answer, text, texts

NAME = "verifiers"
EXTRA = {"verifiers": "verifiers"}


class Verifiers(ReplayEnvironment):
    """One rollout of an environment of `verifiers`, whose rubric gives the attempt's return when it ends.

    The environment's own `rollout` runs, stop conditions and clean-up included, with a client that hands each prompt
    out as an observation and waits for the next action. Rollback begins a new rollout, repeats the actions and checks
    every message, so that one with other answers (a sandbox, a search, a judge with a temperature) is refused. If the
    environment has tools, an action may call them.
    """

    calls: CallReader | None = None
    """How calls are read from an answer, with the schemas for the model's chat template; None without tools."""

    def __init__(
        self,
        module: str,
        kwargs: Mapping[str, Any] | None = None,
        form: str = "hermes",
        error: str | None = None,
        success_at: float = 1.0,
        horizon: int = 30,
        system_prompt: str = "",
    ) -> None:
        """`module`, `kwargs`: what `verifiers.load_environment` takes. `success_at`: the least reward of a success.

        `form`: how the model writes calls of tools; see `tool_calls`. `error`: a pattern of observations that report an
        error, which `verifiers` has no sign for; None: only an ill-formed call is one. Raises ModuleNotFoundError
        without verifiers, and ValueError for an environment that cannot be loaded.
        """
        require_extra(NAME, EXTRA)
        require_whole(1, horizon=horizon)
        self._played = _load(module, json.dumps(dict(kwargs or {}), sort_keys=True))
        tools = [_openai_form(each) for each in getattr(self._played, "tool_defs", None) or ()]
        self.calls = CallReader(tools, form) if tools else None
        self.horizon, self._success_at = horizon, success_at
        self._error = None if error is None else re.compile(error)
        self.system_prompt = self._system_prompt = system_prompt
        self._rollout: Rollout | None = None

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Return the task of a row such as {"example": 3, "split": "eval"}: a row of the environment's own data set.

        `split` is `train` if absent. Raises ValueError for anything else.
        """
        fields = read_fields(row)
        example, split = read_count(fields, "example"), fields.get("split") or "train"
        if example is None or split not in ("train", "eval"):
            raise ValueError(f"example is {example!r}, split {split!r:.80}; expected a number, and train or eval")
        default_key = f"{split}-{example}" if default_key is None else default_key
        return Task(task_key(fields, default_key), "", NAME, {"example": example, "split": split})

    def start(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        self.close()
        data = self._played.get_dataset() if task.data["split"] == "train" else self._played.get_eval_dataset()
        if task.data["example"] >= len(data):
            raise ValueError(f"example is {task.data['example']}; {task.data['split']} has {len(data)} rows")
        self._rollout = Rollout(self._played, data[task.data["example"]])
        messages = self._rollout.next_event()
        if not isinstance(messages, list):
            raise EnvironmentFailure(f"the rollout ended before its first turn: {messages.get('stop_condition')}")
        systems = [text(each) for each in messages if field(each, "role") == "system"]
        self.system_prompt = self._system_prompt or "\n\n".join(systems)
        return texts(each for each in messages if field(each, "role") != "system"), {}

    def advance(self, action: str) -> Step:
        if self._rollout is None:
            raise RuntimeError("no task is being played; call reset or restore first")
        try:
            calls = self.calls.read(action) if self.calls else []
        except IllFormedCall as problem:
            return Step(str(problem), 0.0, False, False, {"success": False, "error": True})
        self._rollout.answer(action, [(call.name, json.dumps(call.arguments)) for call in calls])
        event = self._rollout.next_event()
        if isinstance(event, list):
            told = since_answer(event)
            error = self._error is not None and self._error.search(told) is not None
            return Step(told, 0.0, False, False, {"success": False, "error": error})
        if event.get("error"):
            raise EnvironmentFailure(f"the rollout failed: {event['error']}")
        reward = float(event.get("reward") or 0.0)
        told = since_answer(event.get("completion") or []) or f"The end: {event.get('stop_condition')}."
        return Step(told, reward, True, False, {"success": reward >= self._success_at - ROUNDING, "error": False})

    def close(self) -> None:
        rollout, self._rollout = self._rollout, None
        if rollout is not None:
            rollout.cancel()


@functools.lru_cache(maxsize=8)
def _load(module: str, kwargs: str) -> Any:
    import verifiers

    try:
        return verifiers.load_environment(module, **json.loads(kwargs))
    except Exception as error:  # of any kind: the module's own code runs
        raise ValueError(f"{SETTING}.module is {module!r}, which verifiers cannot load: {error}") from error


def _openai_form(tool: Any) -> dict[str, Any]:
    described = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": described}
