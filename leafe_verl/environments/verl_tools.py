"""verl's own assets as an environment: tools of a `tool_config_path`, and a `custom_reward_function` for the answer."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import sys
import threading
from collections.abc import Awaitable, Mapping
from typing import Any

from leafe_verl.core.environment import Step
from leafe_verl.core.task import Task
from leafe_verl.core.text import without_surrogates
from leafe_verl.environments.judged_calls import JudgedCalls, Judgement
from leafe_verl.environments.tool_calls import CallReader, ToolCall

NAME = "verl_tools"

_redirecting = threading.Lock()


class VerlTools(JudgedCalls):
    """An action calls tools of verl's, or else it is an answer, which the reward function scores.

    Rollback makes new tools and repeats the calls: a tool whose answers then differ, because it reads a clock or a
    server that others change, is refused by the check of replays. As in verl's ToolAgentLoop, each call has an instance
    of its own (`create`, `execute`, `release`), with the `create_kwargs` of the row. What lasts beyond a call is in the
    tool itself, which is new in each attempt. Functions of `function_tool_path` must keep nothing: what they put into
    their module's variables is shared by all attempts of the worker, and is not rolled back. A tool that raises, or a
    call that does not fit its schema, is an error. Only texts are shown of what tools return.
    """

    name = NAME

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
        `format`, in which the model writes calls, or `llama3_json`. The other options are those of `Judgement`.
        """
        self.judge(
            Judgement(reward_path, reward_name, dict(reward_kwargs or {}), answers, success_at), horizon, system_prompt
        )
        self._paths = (tool_config_path, function_tool_path)
        self._tools = self._load_tools()
        schemas = [each.tool_schema.model_dump(exclude_unset=True, exclude_none=True) for each in self._tools]
        self.calls = CallReader(schemas, form)
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Return the task of a row of verl's. Raises ValueError if it offers some of the tools alone."""
        task = super().task(row, default_key=default_key)
        if chosen := task.data["extra_info"].get("tool_selection"):
            raise ValueError(
                f"extra_info.tool_selection is {chosen!r:.80}; expected none, since every tool of tool_config_path can "
                "be called: train tasks with other tools in a run of their own"
            )
        return task

    def begin(self, task: Task) -> None:
        from verl.experimental.agent_loop.tool_agent_loop import AgentData

        self.close()
        self._loop = asyncio.new_event_loop()
        self._present = {each.name: each for each in self._new_tools()}
        self._kwargs = task.data["extra_info"].get("tools_kwargs") or {}
        self._agent_data = AgentData([], [], [], None, None, {}, task.key, self._kwargs)

    def advance(self, action: str) -> Step:
        if self._loop is None:
            raise RuntimeError("no task is being played; call reset or restore first")
        return super().advance(action)

    def execute(self, call: ToolCall) -> tuple[str, bool]:
        said: tuple[str, bool] = self.wait_for(self._call(call))
        return said

    def wait_for(self, work: Awaitable[Any]) -> Any:
        assert self._loop is not None
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_running():  # it runs while a step hangs
            loop.close()

    async def _call(self, call: ToolCall) -> tuple[str, bool]:
        from verl.tools.function_tool import FunctionTool, normalize_function_tool_return

        tool, arguments = self._present[call.name], dict(call.arguments)
        try:
            if isinstance(tool, FunctionTool):
                said = normalize_function_tool_return(await tool.call(arguments))[0].text
                return without_surrogates(said or ""), False
            created = (self._kwargs.get(call.name) or {}).get("create_kwargs") or {}
            instance, _ = await tool.create(create_kwargs=created)
            try:
                response, *_ = await tool.execute(instance, arguments, agent_data=self._agent_data)
            finally:
                await tool.release(instance)
            return without_surrogates(response.text or ""), False
        except Exception as error:  # of any kind, as in ToolAgentLoop
            return without_surrogates(f"{call.name} failed: {type(error).__name__}: {error}"), True

    def _load_tools(self) -> list[Any]:
        from verl.tools.tool_registry import load_all_tools

        # BaseTool prints its schema. Two threads that redirect at once would leave sys.stdout redirected.
        with _redirecting, contextlib.redirect_stdout(sys.stderr):
            return list(load_all_tools(*self._paths))

    def _new_tools(self) -> list[Any]:
        """Return tools in their first state: copies, or new ones where a tool cannot be copied."""
        try:
            return copy.deepcopy(self._tools)
        except Exception:
            return self._load_tools()
