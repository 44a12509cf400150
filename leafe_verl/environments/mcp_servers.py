"""The MCP servers of one attempt: fresh processes in a fresh folder, whose real path the model never sees."""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leafe_verl.core.environment import EnvironmentFailure
from leafe_verl.core.text import without_surrogates
from leafe_verl.environments.mcp_config import ServerProgram
from leafe_verl.environments.mcp_connection import Connection, ServerLimits, servers_loop

SHOWN = "/attempt"
"""What the model sees in the place of the folder's path, which is another in each attempt and would fail replays."""
_SHOWN = re.compile(rf"(?<![\w.-]){SHOWN}(?![\w.-])")
END_SECONDS = 10.0
"""Longest wait for servers to end; the SDK takes up to 6 seconds to kill one that hangs."""


@dataclass(frozen=True)
class ServerPrograms:
    """What runs in an attempt."""

    programs: tuple[ServerProgram, ...]

    @property
    def simulator(self) -> str:
        """Their name in messages of the pool."""
        return f"MCP servers {', '.join(each.name for each in self.programs)}"


class AttemptFolder:
    """A temporary folder with `workspace`, where the servers run, and `tmp` for their temporary files."""

    def __init__(self, files: Mapping[str, str]) -> None:
        """`files`: paths in `workspace`, which must not lead out of it, to texts."""
        self._made = tempfile.TemporaryDirectory(prefix="leafe-mcp-", ignore_cleanup_errors=True)
        self._root = os.path.realpath(self._made.name)
        self.workspace, self.tmp = os.path.join(self._root, "workspace"), os.path.join(self._root, "tmp")
        for folder in (self.workspace, self.tmp):
            os.mkdir(folder)
        for path, text in files.items():
            file = Path(self.workspace, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(without_surrogates(text), encoding="utf-8")

    def hide(self, text: str) -> str:
        """Return a text of a server with SHOWN for the real path."""
        return text.replace(self._root, SHOWN)

    def reveal(self, value: Any) -> Any:
        """Return arguments of a call with the real path for SHOWN, and without what JSON cannot hold."""
        if isinstance(value, Mapping):
            return {key: self.reveal(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.reveal(each) for each in value]
        return _SHOWN.sub(lambda _: self._root, without_surrogates(value)) if isinstance(value, str) else value

    def remove(self) -> None:
        self._made.cleanup()


class Servers:
    """The servers of the attempt that a place of the pool serves. `begin` starts them, for another attempt anew."""

    def __init__(self, programs: ServerPrograms, limits: ServerLimits) -> None:
        self._programs, self._limits = programs.programs, limits
        self._lock = threading.Lock()
        self._folder: AttemptFolder | None = None
        self._running: list[Connection] = []
        self._ending: list[Future[None]] = []

    def wait_until_ready(self) -> None:
        """Do nothing: `begin` waits."""

    def has_ended(self) -> bool:
        """Return False: an attempt that is given this place begins with new servers."""
        return False

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self, method)(*arguments)

    def begin(self, files: Mapping[str, str]) -> None:
        """Start all servers in a new folder with these files, and end those of the attempt before."""
        importlib.import_module("mcp")  # takes a second or more, which is no time of the servers
        self.vacate()
        folder, deadline = AttemptFolder(files), time.monotonic() + self._limits.start_seconds
        variables = {"PYTHONHASHSEED": "0", "TMPDIR": folder.tmp}
        programs = [each.in_folder(folder.workspace) for each in self._programs]
        running = [Connection(each, variables, self._limits) for each in programs]
        with self._lock:
            self._folder, self._running = folder, running
        for server in running:
            server.wait_until_ready(deadline)

    def tools(self) -> list[list[Any]]:
        """Return what each server offers, as the SDK's `Tool`."""
        return [server.wait_until_ready(time.monotonic()) for server in self._running]

    def hide(self, text: str) -> str:
        """Return a text of a server with SHOWN for the folder's path."""
        return self._present()[0].hide(text)

    def workspace(self) -> str:
        """Return the real path of the folder that the servers run in."""
        return self._present()[0].workspace

    def call_tool(self, server: int, name: str, arguments: Mapping[str, Any]) -> tuple[str, bool]:
        """Return what a tool says, and whether that is an error. Raises EnvironmentFailure if its server fails."""
        folder, running = self._present()
        said, error = running[server].call_tool(name, folder.reveal(arguments))
        return folder.hide(without_surrogates(said)), error

    def _present(self) -> tuple[AttemptFolder, list[Connection]]:
        with self._lock:
            if self._folder is None:
                raise EnvironmentFailure("the MCP servers were ended, since the attempt is over")
            return self._folder, self._running

    def vacate(self) -> None:
        """End the servers and remove their folder, without waiting for it."""
        with self._lock:
            folder, self._folder = self._folder, None
            running, self._running = self._running, []
            self._ending = [each for each in self._ending if not each.done()]
            if folder is not None:
                self._ending.append(asyncio.run_coroutine_threadsafe(_end(running, folder), servers_loop()))

    def kill(self) -> None:
        """End the servers; a running call fails at once."""
        self.vacate()

    def close(self) -> None:
        """End the servers and wait for it."""
        self.vacate()
        concurrent.futures.wait(self._ending, END_SECONDS)


async def _end(running: Sequence[Connection], folder: AttemptFolder) -> None:
    await asyncio.gather(*(server.end() for server in running))
    try:
        await asyncio.get_running_loop().run_in_executor(None, folder.remove)
    except RuntimeError:  # the interpreter ends, and starts no threads any more
        folder.remove()
