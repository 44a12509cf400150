"""Base class of environments whose actions call tools or else are an answer, which a reward function of verl scores."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
from abc import abstractmethod
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from leafe_verl.core.environment import ROUNDING, EnvironmentFailure, ReplayEnvironment, Step
from leafe_verl.core.task import Task
from leafe_verl.core.text import without_surrogates
from leafe_verl.environments.options import SETTING, require_whole
from leafe_verl.environments.rows import read_fields, read_object, task_key, to_plain
from leafe_verl.environments.tool_calls import CallReader, IllFormedCall, ToolCall

ANSWERED = "The score of this answer is {score:.3g}."
GIVEN = ("data_source", "solution_str", "ground_truth", "extra_info")
"""Arguments of a reward function, beside those of `reward_kwargs`, which win."""
MEDIA = ("images", "videos", "audios")
"""Columns of verl's rows beside the prompt, of which no attempt shows anything."""


@dataclass(frozen=True)
class Judgement:
    """How answers are scored. Each field is an option of the environment with the same name."""

    reward_path: str | None = None
    """`reward_path`, `reward_name` and `reward_kwargs` are those of `reward.custom_reward_function`; None stands for
    verl's own function for the row's `data_source`."""
    reward_name: str = "compute_score"
    reward_kwargs: Mapping[str, Any] = field(default_factory=dict)
    answers: int = 1
    """Answers that are scored; the last of them ends the attempt."""
    success_at: float = 1.0
    """The least score of a success."""


class JudgedCalls(ReplayEnvironment):
    """An action calls tools, or else it is an answer, which the reward function scores.

    A tool that fails, or a call that does not fit its schema, is an error. A subclass writes `begin` and `execute`.

    A result of the reward function may be a number, or an object with `score`, and `feedback`, which the model is told,
    and `error`, if the answer is none. It gets the answer alone as `solution_str`, not the turns before it.
    """

    ability = "tools"
    name: ClassVar[str]
    """The environment's registered name."""
    calls: CallReader | None = None
    """How calls are read from an answer, with the schemas that the model's chat template renders."""

    def judge(self, judgement: Judgement, horizon: int, system_prompt: str) -> None:
        """Load the reward function. A constructor calls it."""
        require_whole(1, horizon=horizon, answers=judgement.answers)
        self._judgement, self._reward = judgement, _load_reward(judgement.reward_path, judgement.reward_name)
        _require_fitting(self._reward, judgement)
        self.horizon, self.system_prompt = horizon, system_prompt
        self._system_prompt = system_prompt

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Return the task of a row of verl's: `prompt`, `data_source`, `reward_model.ground_truth` and `extra_info`.

        Raises ValueError for what an attempt could not show: images and the like, and turns that have been played.
        """
        _refuse_media(row)
        if row.get("data_source") == cls.name:
            fields = read_fields(row)
            source, truth, key = fields.get("data_source"), fields.get("ground_truth"), fields.get("task_id")
        else:
            fields, source, key = row, row.get("data_source"), row.get("task_id")
            truth = _plain(read_object(row, "reward_model").get("ground_truth"))
        prompt, extra = _read_prompt(fields), _plain(read_object(fields, "extra_info"))
        data = {"prompt": prompt, "data_source": source, "ground_truth": truth, "extra_info": extra}
        return Task(task_key({"task_id": key}, default_key), _text_of(prompt), cls.name, data)

    @abstractmethod
    def begin(self, task: Task) -> None:
        """Bring the tools into their first state."""

    @abstractmethod
    def execute(self, call: ToolCall) -> tuple[str, bool]:
        """Return what a tool says, and whether it failed."""

    def facts(self) -> Mapping[str, Any]:
        """Return what the reward function gets in `extra_info` beyond the row's and `num_turns`."""
        return {}

    def wait_for(self, work: Awaitable[Any]) -> Any:
        """Return the result of a reward function that is a coroutine."""

        async def wait() -> Any:
            return await work

        return asyncio.run(wait())

    def start(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        self._answered, self._task = 0, task
        systems = [each["content"] for each in task.data["prompt"] if each["role"] == "system"]
        self.system_prompt = self._system_prompt or "\n\n".join(systems)
        self.begin(task)
        return _text_of(task.data["prompt"]), {}

    def advance(self, action: str) -> Step:
        if self.calls is None:
            raise RuntimeError("the constructor has not set `calls`")
        try:
            calls = self.calls.read(action)
        except IllFormedCall as problem:
            return Step(str(problem), 0.0, False, False, {"success": False, "error": True})
        if not calls:
            return self._score(action)
        said = [self.execute(each) for each in calls]
        info = {"success": False, "error": any(error for _, error in said), "action": "; ".join(map(str, calls))}
        return Step("\n".join(text for text, _ in said), 0.0, False, False, info)

    def _score(self, answer: str) -> Step:
        data, judgement = self._task.data, self._judgement
        turns = {"num_turns": 2 * len(self._record.actions) + 2}
        extra = {**copy.deepcopy(data["extra_info"]), **turns, **self.facts()}
        given = {"data_source": data["data_source"], "ground_truth": data["ground_truth"]}
        result = self._reward(**{**given, "solution_str": answer, "extra_info": extra, **judgement.reward_kwargs})
        result = self.wait_for(result) if inspect.isawaitable(result) else result
        told = result if isinstance(result, Mapping) else {"score": result}
        score, error = _read_score(result, told.get("score")), bool(told.get("error"))
        solved = score >= judgement.success_at - ROUNDING and not error
        self._answered += not error
        over = solved or self._answered >= judgement.answers
        feedback = str(told.get("feedback") or ANSWERED.format(score=score))
        info = {"success": solved, "error": error, "failed": not solved}
        return Step(feedback, score if over else 0.0, over, False, info)


@functools.cache
def _load_reward(path: str | None, name: str) -> Any:
    """Load a reward function once in a process, as verl does: its module may hold a model, or limit its own calls."""
    if path is None:
        from verl.utils.reward_score import default_compute_score

        return default_compute_score
    from verl.utils.import_utils import load_extern_object

    return load_extern_object(path, name)


def _require_fitting(reward: Any, judgement: Judgement) -> None:
    try:
        inspect.signature(reward).bind(**{**dict.fromkeys(GIVEN), **judgement.reward_kwargs})
    except TypeError as error:
        raise ValueError(
            f"{SETTING}.reward_path is {judgement.reward_path}, whose {judgement.reward_name} does not take what it is "
            f"given ({error}); expected the parameters {', '.join((*GIVEN, *judgement.reward_kwargs))}, or **kwargs"
        ) from None


def _read_score(result: Any, score: Any) -> float:
    try:
        return float(score)
    except (TypeError, ValueError):
        raise EnvironmentFailure(
            f"the reward function returned {result!r:.200}; expected a number, or an object with `score`"
        ) from None


def _refuse_media(row: Mapping[str, Any]) -> None:
    for name in MEDIA:
        if (held := _plain(row.get(name))) is not None and held != []:
            raise ValueError(f"{name} is {held!r:.80}; expected no such column, since texts alone are shown")


def _read_prompt(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    prompt = _plain(fields.get("prompt"))
    if not isinstance(prompt, list) or not prompt:
        raise ValueError(f"prompt is {prompt!r:.80}; expected a list of messages with role and content, as verl's")
    messages = [{**message, "content": _read_content(message)} for message in prompt]
    if others := sorted({each["role"] for each in messages} - {"system", "user"}):
        raise ValueError(
            f"prompt has messages of the role {', '.join(others)}; expected system and user alone, since an attempt "
            "begins with one message of the user"
        )
    return messages


def _read_content(message: Any) -> str:
    """Return a message's text, which may stand in parts. Raises ValueError for any other message."""
    content = message.get("content") if isinstance(message, dict) and isinstance(message.get("role"), str) else None
    parts = content if isinstance(content, list) else [content]
    found = [part.get("text") if isinstance(part, dict) else part for part in parts]
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) < len(found):
        raise ValueError(
            f"a message of prompt is {message!r:.80}; expected a list of messages with role and content, which is text"
        )
    return without_surrogates("\n\n".join(texts))


def _text_of(prompt: Sequence[Mapping[str, Any]]) -> str:
    return "\n\n".join(each["content"] for each in prompt if each["role"] != "system")


def _plain(value: Any) -> Any:
    """Return a value of JSON for what a reader of parquet gives: arrays, and what they hold."""
    value = to_plain(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
