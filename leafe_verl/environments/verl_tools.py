"""verl's own assets as an environment: tools of a `tool_config_path`, and a `custom_reward_function` for the answer."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import sys
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from leafe_verl.core.environment import ReplayEnvironment, Step
from leafe_verl.core.task import Task
from leafe_verl.environments.options import require_at_least
from leafe_verl.environments.rows import build_verl_row, read_fields, task_key, to_plain
from leafe_verl.environments.tool_calls import CallReader, IllFormedCall, ToolCall

NAME = "verl_tools"
ANSWERED = "The score of this answer is {score:.3g}."


class VerlTools(ReplayEnvironment):
    """An action calls tools, or else it is an answer, which the reward function scores.

    Rollback makes new tools and repeats the calls: a tool whose answers then differ, because it reads a clock or a
    server that others change, is refused by the check of replays. As in verl's ToolAgentLoop, each call has an instance
    of its own (`create`, `execute`, `release`), with the `create_kwargs` of the row. What lasts beyond a call is in the
    tool itself, which is new in each attempt. A tool that raises, or a call that does not fit its schema,
    is an error. Only texts are shown of what tools return.

    A result of the reward function may be a number, or an object with `score`, and `feedback`, which the model is told,
    and `error`, if the answer is none. It gets the answer alone as `solution_str`, not the turns before it.
    """

    calls: CallReader | None = None
    """How calls are read from an answer, with the schemas that the model's chat template renders."""

    def __init__(
        self,
        tool_config_path: str | None = None,
        function_tool_path: str | None = None,
        reward_path: str | None = None,
        reward_name: str = "compute_score",
        reward_kwargs: Mapping[str, Any] | None = None,
        form: str = "hermes",
        answers: int = 1,
        success_at: float = 1.0,
        horizon: int = 10,
        system_prompt: str = "",
    ) -> None:
        """`tool_config_path`, `function_tool_path`: those of `actor_rollout_ref.rollout.multi_turn`. `form`: its
        `format`, in which the model writes calls, or `llama3_json`.

        `reward_path`, `reward_name`, `reward_kwargs`: those of `reward.custom_reward_function`; None: verl's own
        function for the row's `data_source`. `answers`: answers that are scored; the last of them ends the attempt.
        `success_at`: the least score of a success.
        """
        require_at_least(1, horizon=horizon, answers=answers)
        self._paths = (tool_config_path, function_tool_path)
        self._tools = self._load_tools()
        schemas = [each.tool_schema.model_dump(exclude_unset=True, exclude_none=True) for each in self._tools]
        self.calls = CallReader(schemas, form)
        self._reward, self._reward_kwargs = _load_reward(reward_path, reward_name), dict(reward_kwargs or {})
        self.horizon, self._answers, self._success_at = horizon, answers, success_at
        self.system_prompt = self._system_prompt = system_prompt
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Return the task of a row of verl's: `prompt`, `data_source`, `reward_model.ground_truth` and `extra_info`."""
        if row.get("data_source") == NAME:
            fields = read_fields(row)
            data = {each: fields[each] for each in ("prompt", "data_source", "ground_truth", "extra_info")}
            return Task(task_key(fields, default_key), str(fields["text"]), NAME, data)
        prompt, extra = _plain(row.get("prompt")), _plain(row.get("extra_info") or {})
        if not isinstance(prompt, list) or not prompt or not all(isinstance(each, dict) for each in prompt):
            raise ValueError(f"prompt is {prompt!r:.80}; expected a list of messages with role and content, as verl's")
        truth = _plain((row.get("reward_model") or {}).get("ground_truth"))
        data = {"prompt": prompt, "data_source": row.get("data_source"), "ground_truth": truth, "extra_info": extra}
        return Task(task_key({"task_id": row.get("task_id")}, default_key), _text_of(prompt), NAME, data)

    @classmethod
    def verl_row(cls, task: Task, split: str, index: int) -> dict[str, Any]:
        """Return verl's parquet row, which `task` reads back."""
        return build_verl_row(task, "tools", split, index)

    def start(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        from verl.experimental.agent_loop.tool_agent_loop import AgentData

        self.close()
        self._loop, self._task, self._answered = asyncio.new_event_loop(), task, 0
        self._present = {each.name: each for each in self._new_tools()}
        systems = [each["content"] for each in task.data["prompt"] if each["role"] == "system"]
        self.system_prompt = self._system_prompt or "\n\n".join(systems)
        self._kwargs = task.data["extra_info"].get("tools_kwargs") or {}
        self._agent_data = AgentData([], [], [], None, None, {}, task.key, self._kwargs)
        return _text_of(task.data["prompt"]), {}

    def advance(self, action: str) -> Step:
        if self._loop is None or self.calls is None:
            raise RuntimeError("no task is being played; call reset or restore first")
        try:
            calls = self.calls.read(action)
        except IllFormedCall as problem:
            return Step(str(problem), 0.0, False, False, {"success": False, "error": True})
        if not calls:
            return self._score(action)
        said = [self._run(self._call(call)) for call in calls]
        info = {"success": False, "error": any(error for _, error in said), "action": "; ".join(map(str, calls))}
        return Step("\n".join(text for text, _ in said), 0.0, False, False, info)

    def close(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_running():  # it runs while a step hangs
            loop.close()

    def _score(self, answer: str) -> Step:
        data = self._task.data
        extra = {**copy.deepcopy(data["extra_info"]), "num_turns": 2 * len(self._record.actions) + 2}
        given = {"solution_str": answer, "extra_info": extra} | {each: data[each] for each in _GIVEN}
        result = self._reward(**given, **self._reward_kwargs)
        result = self._run(result) if inspect.isawaitable(result) else result
        told = result if isinstance(result, Mapping) else {"score": result}
        score, error = float(told["score"]), bool(told.get("error"))
        solved = score >= self._success_at and not error
        self._answered += not error
        info = {"success": solved, "error": error, "failed": not solved}
        over = solved or self._answered >= self._answers
        return Step(
            str(told.get("feedback") or ANSWERED.format(score=score)), score if over else 0.0, over, False, info
        )

    async def _call(self, call: ToolCall) -> tuple[str, bool]:
        """Return what a tool says, and whether it raised."""
        from verl.tools.function_tool import FunctionTool, normalize_function_tool_return

        tool, arguments = self._present[call.name], dict(call.arguments)
        try:
            if isinstance(tool, FunctionTool):
                return normalize_function_tool_return(await tool.call(arguments))[0].text or "", False
            created = (self._kwargs.get(call.name) or {}).get("create_kwargs") or {}
            instance, _ = await tool.create(create_kwargs=created)
            try:
                response, *_ = await tool.execute(instance, arguments, agent_data=self._agent_data)
            finally:
                await tool.release(instance)
            return response.text or "", False
        except Exception as error:  # of any kind, as in ToolAgentLoop
            return f"{call.name} failed: {type(error).__name__}: {error}", True

    def _run(self, work: Awaitable[Any]) -> Any:
        assert self._loop is not None
        return self._loop.run_until_complete(work)

    def _load_tools(self) -> list[Any]:
        from verl.tools.tool_registry import load_all_tools

        with contextlib.redirect_stdout(sys.stderr):  # BaseTool prints its schema
            return list(load_all_tools(*self._paths))

    def _new_tools(self) -> list[Any]:
        """Return tools in their first state: copies, or new ones where a tool cannot be copied."""
        try:
            return copy.deepcopy(self._tools)
        except Exception:
            return self._load_tools()


_GIVEN = ("data_source", "ground_truth")


def _load_reward(path: str | None, name: str) -> Any:
    if path is None:
        from verl.utils.reward_score import default_compute_score

        return default_compute_score
    from verl.utils.import_utils import load_extern_object

    return load_extern_object(path, name)


def _text_of(prompt: Sequence[Mapping[str, Any]]) -> str:
    return "\n\n".join(str(each["content"]) for each in prompt if each["role"] != "system")


def _plain(value: Any) -> Any:
    """Return a value of JSON for what a reader of parquet gives: arrays, and what they hold."""
    value = to_plain(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
