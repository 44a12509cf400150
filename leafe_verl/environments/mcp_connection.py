"""The connection to one MCP server, a process that the MCP SDK starts, over its standard input and output."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leafe_verl.core.environment import EnvironmentFailure, EnvironmentTimeout
from leafe_verl.environments.mcp_config import ServerProgram
from leafe_verl.environments.options import SETTING

SUPERVISOR = str(Path(__file__).with_name("mcp_supervisor.py"))
STDERR_BYTES = 2000
PAGES = 100
"""Most pages of a server's list of tools."""


@dataclass(frozen=True)
class ServerLimits:
    """How long servers may take before they are killed. Each field is an option of the environment."""

    start_seconds: float = 45.0
    """Longest time from starting the processes until all servers have listed their tools."""
    call_seconds: float = 30.0
    """Longest time of one call of a tool."""
    wait_seconds: float = 60.0
    """Longest wait for servers that are not in a call."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{SETTING}.{name} is {value!r}; expected a number above 0")


class Connection:
    """A server that was just started. Each of its failures is raised as an EnvironmentFailure."""

    def __init__(self, program: ServerProgram, variables: Mapping[str, str], limits: ServerLimits) -> None:
        """`variables`: what the server's environment holds beside the program's own."""
        self._program, self._limits = program, limits
        self._variables = {**variables, **dict(program.env)}
        self._ready: Future[list[Any]] = Future()
        self._client: Any = None
        self._scope: Any = None
        self._stopping, self._over = asyncio.Event(), asyncio.Event()
        self._stderr = Tail()
        asyncio.run_coroutine_threadsafe(self._hold(), servers_loop())

    def wait_until_ready(self, deadline: float) -> list[Any]:
        """Return the server's tools, as the SDK's `Tool`.

        Raises EnvironmentTimeout after the deadline, a time of `time.monotonic`.
        """
        try:
            return self._ready.result(max(deadline - time.monotonic(), 0))
        except concurrent.futures.TimeoutError:
            raise EnvironmentTimeout(self._failed("its start took too long", "start_seconds")) from None

    def call_tool(self, name: str, arguments: Mapping[str, Any]) -> tuple[str, bool]:
        """Return what a tool says, and whether that is an error."""
        return asyncio.run_coroutine_threadsafe(self._call_tool(name, dict(arguments)), servers_loop()).result()

    async def end(self) -> None:
        """Fail the running call, end the process, and return when it has ended."""
        self._stopping.set()
        if self._scope is not None:
            self._scope.cancel()
        await self._over.wait()

    async def _hold(self) -> None:
        """Hold the connection from its start to its end: the SDK wants the same task to open and to close it."""
        problem = "it was ended before it was ready"
        with self._stderr.being_read():
            try:
                await self._connect()
            except Exception as error:  # of any kind: the SDK raises groups, also of what the operating system raises
                problem = await self._describe(error)
            finally:
                if not self._ready.done():
                    self._ready.set_exception(EnvironmentFailure(self._failed(problem)))
                self._over.set()

    async def _connect(self) -> None:
        import anyio
        from mcp import Client
        from mcp.client.stdio import stdio_client

        # A cancelled scope ends the process in order, where a cancelled task would leave the SDK's clean-up halfway.
        with anyio.CancelScope() as self._scope:
            if self._stopping.is_set():
                return
            transport = stdio_client(self._parameters(), errlog=self._stderr.writer)
            async with Client(transport, cache=None) as self._client:
                self._ready.set_result(await _list_tools(self._client))
                await anyio.sleep_forever()

    def _parameters(self) -> Any:
        from mcp import StdioServerParameters

        program = self._program
        return StdioServerParameters(
            command=sys.executable,
            args=["-I", "-S", SUPERVISOR, str(os.getpid()), program.command, *program.args],
            env=self._variables,
            cwd=program.cwd,
            encoding_error_handler="replace",
        )

    async def _call_tool(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        call = asyncio.ensure_future(self._client.call_tool(name, arguments))
        stopping = asyncio.ensure_future(self._stopping.wait())
        waited = {call, stopping}
        await asyncio.wait(waited, timeout=self._limits.call_seconds, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if call.done() and not self._stopping.is_set():
            return await self._read_result(name, call)
        call.cancel()
        if self._stopping.is_set():
            raise EnvironmentFailure(self._failed(f"it was ended in a call of {name}"))
        raise EnvironmentTimeout(self._failed(f"a call of {name} took too long", "call_seconds"))

    async def _read_result(self, name: str, call: asyncio.Future[Any]) -> tuple[str, bool]:
        from mcp import MCPError

        try:
            result = call.result()
        except MCPError as error:
            if not _is_closed(error):
                return f"{name} failed: {error.message}", True
            problem = f"it ended in a call of {name}: {await self._describe(error)}"
            raise EnvironmentFailure(self._failed(problem)) from None
        except RuntimeError as error:  # a result that does not fit what the tool itself says about its output
            return f"{name} failed: {error}", True
        except Exception as error:
            raise EnvironmentFailure(self._failed(f"a call of {name}: {await self._describe(error)}")) from error
        text = "\n".join(map(_show, result.content))
        if not text and result.structured_content is not None:
            text = json.dumps(result.structured_content, ensure_ascii=False)
        return text or (f"{name} failed." if result.is_error else f"{name} gave nothing."), bool(result.is_error)

    async def _describe(self, error: BaseException) -> str:
        """Return an error in words, with the end of what the server has written to its standard error."""
        while inner := getattr(error, "exceptions", None):
            error = inner[0]
        await asyncio.sleep(0.2)  # the server's last words may still be on their way
        words = self._stderr.text()
        return f"{type(error).__name__}: {error}" + (f"; its standard error ends with: {words}" if words else "")

    def _failed(self, what: str, limit: str = "") -> str:
        hint = f"; the limit is {SETTING}.{limit}={getattr(self._limits, limit):g}" if limit else ""
        return f"MCP server {self._program.name!r}: {what}{hint}"


class Tail:
    """The end of what a server writes to its standard error, which is a pipe that is always read."""

    def __init__(self) -> None:
        self._kept = b""

    @contextlib.contextmanager
    def being_read(self) -> Iterator[None]:
        """Open the pipe and read it in the running loop."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        loop = asyncio.get_running_loop()
        with os.fdopen(writing, "w") as self.writer:
            loop.add_reader(reading, self._read, reading)
            try:
                yield
            finally:
                loop.remove_reader(reading)
                os.close(reading)

    def text(self) -> str:
        return self._kept.decode("utf-8", "replace").strip()

    def _read(self, reading: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._kept = (self._kept + os.read(reading, 2**16))[-STDERR_BYTES:]


def _show(block: Any) -> str:
    """Return the text of a part of a result, with a word in brackets in the place of anything else."""
    if block.type == "text":
        return str(block.text)
    if block.type == "resource":
        return str(getattr(block.resource, "text", None) or f"[resource {block.resource.uri}]")
    return f"[{block.type.replace('_', ' ')} {getattr(block, 'uri', None) or getattr(block, 'mime_type', '')}]"


def _is_closed(error: Any) -> bool:
    """Return whether the connection is gone. A server may use the same code for errors of its own."""
    from mcp.types import CONNECTION_CLOSED

    return bool(error.code == CONNECTION_CLOSED and error.message == "Connection closed")


async def _list_tools(client: Any) -> list[Any]:
    tools, cursor = [], None
    for _ in range(PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return tools


_starting = threading.Lock()
"""Held while the loop is started: attempts begin in many threads at once."""


def servers_loop() -> asyncio.AbstractEventLoop:
    """Return the loop of all servers of this process."""
    with _starting:
        return _start_loop()


@functools.lru_cache(maxsize=1)
def _start_loop() -> asyncio.AbstractEventLoop:
    logging.getLogger("mcp.client.stdio").addFilter(_without_traceback)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="MCP servers", daemon=True).start()
    return loop


def _without_traceback(record: logging.LogRecord) -> bool:
    """Make one line of what the SDK logs: a server's banner would be a traceback at each start."""
    if record.exc_info:
        problem = str(record.exc_info[1]).replace("\n", " ")
        record.msg, record.args, record.exc_info = f"{record.getMessage()}: {problem:.300}", (), None
    return True


# A forked copy of this process does not have that thread.
os.register_at_fork(after_in_child=_start_loop.cache_clear)
