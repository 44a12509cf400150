"""Tools of local MCP servers as an environment: each attempt has servers of its own, and rollback repeats the calls."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.metadata
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from leafe_verl.core.environment import EnvironmentFailure
from leafe_verl.core.reflection import shorten
from leafe_verl.core.task import Task
from leafe_verl.environments.extras import require_extra
from leafe_verl.environments.judged_calls import JudgedCalls, Judgement
from leafe_verl.environments.mcp_config import read_config
from leafe_verl.environments.mcp_connection import ServerLimits
from leafe_verl.environments.mcp_servers import ServerPrograms, Servers
from leafe_verl.environments.options import SETTING, require_at_least
from leafe_verl.environments.rows import read_strings, without_nulls
from leafe_verl.environments.simulator import SimulatorEnvironment, SimulatorPool
from leafe_verl.environments.tool_calls import CallReader, ToolCall

NAME = "mcp_tools"
EXTRA = {"mcp": "mcp"}


@dataclass(frozen=True)
class OfferedTool:
    """A tool of one of the servers."""

    name: str
    """What the model calls it: its own name, or `server__name` if several servers have one of that name."""
    server: int
    """The index of its server."""
    own_name: str
    description: str
    parameters: Mapping[str, Any]

    @property
    def schema(self) -> dict[str, Any]:
        described = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": described}


class McpTools(JudgedCalls, SimulatorEnvironment):
    """An action calls tools of MCP servers, or else it is an answer, which the reward function scores.

    The servers of an attempt are processes of its own, in a folder of its own, which holds the row's
    `extra_info.files` at first and is removed afterwards. Rollback starts new ones and repeats the calls: a server
    that keeps state elsewhere, or reads a clock, answers otherwise and is refused by the check of replays. With more
    attempts than `processes`, an attempt between two calls may lose its servers to another one, and its state comes
    back in the same way.

    An error that a tool reports is feedback and a failed turn. A server that dies or hangs ends the attempt unscored.
    Beside what `JudgedCalls` says, the reward function finds in `extra_info` the `calls` of the attempt, objects with
    `name`, `arguments`, `text` and `error`, and the path `folder`, where the servers' files are.
    """

    name = NAME

    def __init__(
        self,
        config_path: str,
        tools: Sequence[str] | None = None,
        reward_path: str | None = None,
        reward_name: str = "compute_score",
        reward_kwargs: Mapping[str, Any] | None = None,
        form: str = "hermes",
        answers: int = 1,
        success_at: float = 1.0,
        horizon: int = 10,
        system_prompt: str = "",
        feedback_characters: int = 4000,
        processes: int = 32,
        **limits: float,
    ) -> None:
        """`config_path`: a JSON file with `mcpServers` (or VS Code's `servers`), which `read_config` reads.

        `tools`: the names of those that the model may call; None: all. `form`: how it writes calls; see `tool_calls`.
        `feedback_characters`: what a tool says is cut to this length in its middle. `processes`: attempts whose servers
        run at once in this process. `limits`: the fields of `ServerLimits`. The other options are those of `Judgement`.
        Raises ModuleNotFoundError without mcp, and ValueError for servers that do not start.
        """
        require_extra(NAME, EXTRA)
        _check_version()
        require_at_least(1, feedback_characters=feedback_characters, processes=processes)
        judgement = Judgement(reward_path, reward_name, dict(reward_kwargs or {}), answers, success_at)
        self.judge(judgement, horizon, system_prompt)
        programs, within = ServerPrograms(read_config(config_path)), _read_limits(limits)
        offered = _allowed(_offered(programs, within, config_path), tools)
        self._offered = {each.name: each for each in offered}
        self.calls = CallReader([each.schema for each in offered], form)
        self._feedback_characters = feedback_characters
        SimulatorEnvironment.__init__(self, _pool(programs, within, processes))

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Return the task of a row of verl's. `extra_info.files` are the files of the servers' folder: path to text."""
        task = super().task(row, default_key=default_key)
        extra = task.data["extra_info"]
        files = extra.get("files") or {}
        if isinstance(files, Mapping):
            files = without_nulls(files)
        _check_files(files)
        return dataclasses.replace(task, data={**task.data, "extra_info": {**extra, "files": files}})

    def begin(self, task: Task) -> None:
        self._made: list[dict[str, Any]] = []
        self.call("begin", task.data["extra_info"].get("files") or {})

    def execute(self, call: ToolCall) -> tuple[str, bool]:
        tool = self._offered[call.name]
        said, error = self.call("call_tool", tool.server, tool.own_name, call.arguments)
        self._made.append({"name": call.name, "arguments": dict(call.arguments), "text": said, "error": error})
        return shorten(said, self._feedback_characters), error

    def facts(self) -> Mapping[str, Any]:
        return {"calls": copy.deepcopy(self._made), "folder": self.call("workspace")}


def _check_version() -> None:
    if (installed := importlib.metadata.version("mcp")).startswith(("0.", "1.")):
        raise ModuleNotFoundError(
            f"{NAME} needs mcp 2, and {installed} is installed; fix it with: pip install leafe-verl[{NAME}]"
        )


def _read_limits(limits: Mapping[str, float]) -> ServerLimits:
    known = ServerLimits.__dataclass_fields__
    if unknown := sorted(limits.keys() - known.keys()):
        raise ValueError(f"unknown {SETTING}.{', '.join(unknown)}; the limits of servers are {', '.join(known)}")
    return ServerLimits(**limits)


def _check_files(files: Any) -> None:
    if not isinstance(files, Mapping) or not all(isinstance(text, str) for text in files.values()):
        raise ValueError(f"extra_info.files is {files!r:.80}; expected an object of paths to texts")
    for path in files:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or not PurePosixPath(path).parts:
            raise ValueError(f"extra_info.files has the path {path!r:.80}; expected one in the folder, such as a/b.txt")


def _allowed(offered: Sequence[OfferedTool], tools: Sequence[str] | None) -> list[OfferedTool]:
    """Return the tools of these names. Raises ValueError for a name that no tool has."""
    if tools is None:
        return list(offered)
    names = read_strings(f"{SETTING}.tools", tools)
    if unknown := sorted(set(names) - {each.name for each in offered}):
        has = ", ".join(each.name for each in offered)
        raise ValueError(f"{SETTING}.tools has {', '.join(unknown)}; the servers have {has}")
    return [each for each in offered if each.name in names]


_asking = threading.Lock()
"""Held while servers are asked for their tools: many attempts begin at once, and one of them asks for all."""


def _offered(programs: ServerPrograms, limits: ServerLimits, config_path: str) -> tuple[OfferedTool, ...]:
    """Return the tools of all servers, which are started for it once in a process. Raises ValueError if that fails."""
    with _asking:
        try:
            return _ask(programs, limits)
        except EnvironmentFailure as failure:
            raise ValueError(
                f"{failure}. Fix the server in {config_path}; unless it has a cwd, it runs in a new folder, and needs "
                "full paths of files of its own"
            ) from failure


@functools.lru_cache(maxsize=8)
def _ask(programs: ServerPrograms, limits: ServerLimits) -> tuple[OfferedTool, ...]:
    servers = Servers(programs, limits)
    try:
        servers.begin({})
        found = [(server, tool) for server, tools in enumerate(servers.tools()) for tool in tools]
        counts = Counter(tool.name for _, tool in found)
        named = [_describe(programs, server, tool, counts[tool.name] > 1, servers) for server, tool in found]
    finally:
        servers.close()
    twice = [name for name, times in Counter(each.name for each in named).items() if times > 1]
    if twice or not named:
        problem = f"have two tools that would be called {twice[0]}" if twice else "have no tools"
        raise EnvironmentFailure(f"{programs.simulator} {problem}")
    return tuple(named)


def _describe(programs: ServerPrograms, server: int, tool: Any, prefixed: bool, servers: Servers) -> OfferedTool:
    prefix = re.sub(r"[^A-Za-z0-9_-]", "_", programs.programs[server].name) + "__" if prefixed else ""
    description = servers.hide(tool.description or "")
    return OfferedTool(f"{prefix}{tool.name}", server, tool.name, description, tool.input_schema)


@functools.cache
def _pool(programs: ServerPrograms, limits: ServerLimits, processes: int) -> SimulatorPool:
    return SimulatorPool(programs, limits, processes, Servers)
