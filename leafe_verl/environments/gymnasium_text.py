"""Any text environment with Gymnasium's `reset` and `step`. Rollback is by its own state, by replay, or by a copy."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from leafe_verl.core.environment import ROUNDING, EnvironmentFailure, ReplayEnvironment, ReplaySnapshot, Step
from leafe_verl.core.task import Task
from leafe_verl.core.text import without_surrogates
from leafe_verl.environments.gymnasium_state import set_state, take_state
from leafe_verl.environments.options import SETTING, require_whole
from leafe_verl.environments.react import FORM, NO_ACTION, extract_action
from leafe_verl.environments.rows import read_count, read_fields, task_key, without_nulls

NAME = "gymnasium"
SNAPSHOTS = ("auto", "state", "copy", "replay")
_FORM = FORM.format(thought="what you think", action="what you do")


@dataclass(frozen=True)
class GymnasiumSnapshot:
    record: ReplaySnapshot
    """How the state was reached. The environment is deterministic, so two snapshots with equal records are equal."""
    kind: str
    """`state`, `copy` or `replay`."""
    pickled: bytes = field(default=b"", compare=False, repr=False)
    """The environment's state (kind `state`), or the whole environment (kind `copy`); empty for a replay."""
    total: float = 0.0
    """Sum of the rewards so far."""


class GymnasiumText(ReplayEnvironment):
    """Adapts a text environment with Gymnasium's interface to core's; the package `gymnasium` is not needed.

    `reset(seed=, options=)` must return (observation, info), and `step(text)` the five-tuple; observations are strings.
    Success is `info["success"]`, by default that it terminated with a return above 0. An error is `info["error"]`, by
    default False. A verdict on the action may be `info["failed"]`; see core's `has_failed`.
    """

    name: ClassVar[str] = NAME
    """Registered name, which the tasks carry."""

    def __init__(
        self,
        entry_point: str,
        kwargs: Mapping[str, Any] | None = None,
        snapshot: str = "auto",
        horizon: int = 30,
        system_prompt: str = "",
        react: bool = False,
    ) -> None:
        """`entry_point`: `package.module:callable`, called with `kwargs`: `gymnasium:make` with {"id": "My-v0"}, say.

        `snapshot`: `state` uses `get_state` and `set_state` of the environment or of the one that it wraps; `replay`
        resets, repeats the actions and checks every observation; `auto` uses the first of these that works. `copy`
        pickles the environment, which takes no steps. Nothing checks a copy, and it misses without an error what is not
        in the object: global random generators, attributes of classes and modules, a server, a JVM.
        `react`: answers have the form of ReAct, for which `system_prompt` gets instructions, and the environment gets
        only the action. By default it gets the whole answer.
        """
        require_whole(1, horizon=horizon)
        if snapshot not in SNAPSHOTS:
            choices = ", ".join(SNAPSHOTS)
            raise ValueError(f"{SETTING}.snapshot is {snapshot!r}; expected one of {choices}")
        self.horizon = horizon
        self.react = react
        self.system_prompt = "\n".join(filter(None, (system_prompt, _FORM))) if react else system_prompt
        self._new = import_callable(entry_point, "entry_point")
        self._kwargs = dict(kwargs or {})
        self._snapshot = snapshot
        self._environment: Any = None
        self._total = 0.0

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Return the task of a row with task_id, text, seed and options (for `reset`), or of verl's parquet files.

        Only the key is required. Without a seed, `reset` gets the one of the settings. Raises ValueError that says what
        came and what was expected.
        """
        fields = read_fields(row)
        seed, options = read_count(fields, "seed"), fields.get("options")
        if options is not None and not isinstance(options, Mapping):
            raise ValueError(f"options is {options!r:.80}; expected an object for reset, or none")
        data = without_nulls({"seed": seed, "options": None if options is None else without_nulls(options)})
        return Task(task_key(fields, default_key), str(fields.get("text") or ""), cls.name, data)

    def start(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        if self._environment is None:
            self._environment = self._new(**self._kwargs)
        self._total = 0.0
        seed, options = task.data.get("seed", seed), task.data.get("options")
        observation, info = self._environment.reset(seed=seed, options=options)
        return _text(observation), dict(info)

    def advance(self, action: str) -> Step:
        if self._environment is None:
            raise RuntimeError("no task is being played; call reset or restore first")
        command = extract_action(action, longest=None) if self.react else action
        if command is None:
            return Step(NO_ACTION, 0.0, False, False, {"success": False, "error": True})
        observation, reward, terminated, truncated, info = self._environment.step(command)
        self._total += float(reward)
        success = bool(info.get("success", terminated and self._total > ROUNDING))
        told = {**info, "success": success, "error": bool(info.get("error", False))}
        told |= {"action": command} if self.react else {}
        return Step(_text(observation), float(reward), bool(terminated), bool(truncated), told)

    def snapshot(self) -> Any:
        record = super().snapshot()
        kind = "state" if self._snapshot == "auto" else self._snapshot
        try:
            return GymnasiumSnapshot(record, kind, self._pickled(kind), self._total)
        except Exception as error:  # of any kind: pickling runs the environment's own code, and that of C libraries
            self._give_up(kind, error)
        return GymnasiumSnapshot(record, "replay", total=self._total)

    def _give_up(self, kind: str, cause: Exception) -> None:
        """Replay from now on. Raises EnvironmentFailure if the user has chosen another way."""
        if self._snapshot not in ("auto", "replay"):
            raise EnvironmentFailure(
                f"{type(self._environment).__name__} cannot be rolled back by its {kind} "
                f"({type(cause).__name__}: {cause}); set {SETTING}.snapshot to auto or replay"
            ) from cause
        self._snapshot = "replay"

    def restore(self, snapshot: Any) -> int:
        """Return to a snapshot's state. Only a replay takes steps; it raises ReplayDivergence if one differs."""
        record = snapshot.record
        if snapshot.kind == "replay":
            return super().restore(record)
        try:
            self._put_back(snapshot)
        except Exception as error:  # what could be pickled is not always read back
            self._give_up(snapshot.kind, error)
            self.close()
            return super().restore(record)
        self._record, self._total = record, snapshot.total
        return 0

    def _put_back(self, snapshot: GymnasiumSnapshot) -> None:
        if snapshot.kind == "copy":
            self.close()
            self._environment = pickle.loads(snapshot.pickled)
        else:
            # The reset restores what the state may leave out because it does not change within a task.
            self.start(snapshot.record.task, snapshot.record.seed)
            set_state(self._environment, snapshot.pickled)

    def close(self) -> None:
        environment, self._environment = self._environment, None
        if hasattr(environment, "close"):
            environment.close()

    def _pickled(self, kind: str) -> bytes:
        """Return what a snapshot of this kind holds. Raises an error of any kind if the environment cannot give it."""
        if kind == "replay":
            return b""
        return take_state(self._environment) if kind == "state" else pickle.dumps(self._environment)


def _text(observation: Any) -> str:
    if not isinstance(observation, str):
        raise TypeError(f"the observation is a {type(observation).__name__}; expected a text: wrap the environment")
    return without_surrogates(observation)


def import_callable(path: str, option: str) -> Callable[..., Any]:
    """Return the callable that `package.module:callable`, the value of an option, names. Raises ValueError if none."""
    module_name, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"{SETTING}.{option} is {path!r} ({error}); expected package.module:callable") from error
    if not callable(found):
        raise ValueError(f"{SETTING}.{option} is {path!r}, no callable; expected package.module:callable")
    made: Callable[..., Any] = found
    return made
