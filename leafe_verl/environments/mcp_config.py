"""The file that names MCP servers, in the form of Claude's, Cursor's and VS Code's settings."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from leafe_verl.environments.options import SETTING

logger = logging.getLogger(__name__)

KEYS = ("mcpServers", "servers")
"""The key of the servers: of Claude and Cursor, and of VS Code."""
FOLDER = "workspaceFolder"
"""`${workspaceFolder}` stands for the folder of an attempt."""
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


class ServerProgram(BaseModel):
    """How a server is started. Fields are those of the file; others have no meaning here."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    name: str
    command: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    """Environment variables, beyond the few that the MCP SDK hands on, such as PATH and HOME."""
    cwd: str | None = None
    """Where it runs; None: in the folder of the attempt."""

    def in_folder(self, folder: str) -> ServerProgram:
        """Return the program with `folder` for `${workspaceFolder}`."""

        def put(text: str) -> str:
            return text.replace(f"${{{FOLDER}}}", folder)

        return self.model_copy(
            update={
                "command": put(self.command),
                "args": tuple(map(put, self.args)),
                "env": tuple((name, put(value)) for name, value in self.env),
                "cwd": put(self.cwd or folder),
            }
        )


def read_config(path: str) -> tuple[ServerProgram, ...]:
    """Return the servers of a file, without those that are `disabled`.

    Raises ValueError, which names the file and the server, for anything that cannot be started anew for each attempt.
    """
    where = f"{SETTING}.config_path is {path!r}"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{where}, which cannot be read as JSON: {error}") from None
    found = next((content[key] for key in KEYS if isinstance(content, dict) and key in content), None)
    if not isinstance(found, dict):
        raise ValueError(f"{where}; expected an object with {' or '.join(KEYS)}, an object of servers by their names")
    servers = {name: entry for name, entry in found.items() if not (isinstance(entry, dict) and entry.get("disabled"))}
    if not servers:
        raise ValueError(f"{where}, which names no server that is not disabled")
    return tuple(_read_server(name, entry, f"{where}: server {name!r}") for name, entry in servers.items())


def _read_server(name: str, entry: Any, where: str) -> ServerProgram:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {entry!r:.80}; expected an object with command, args and env")
    if "url" in entry or entry.get("type", "stdio") != "stdio":
        raise ValueError(
            f"{where} is reached by a URL, and so cannot be started anew for each attempt; expected one with a command"
        )
    if unread := sorted(entry.keys() & {"envFile", "sandboxEnabled", "sandbox"}):
        raise ValueError(f"{where} has {', '.join(unread)}, which is not read here; use env")
    try:
        program = ServerProgram.model_validate(_expanded(_as_fields(name, entry), where))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {place} is {first['input']!r:.80}: {first['msg']}") from None
    if f"${{{FOLDER}}}" not in program.command and shutil.which(program.command) is None:
        raise ValueError(f"{where}: there is no program {program.command!r} on the PATH; fix command, or install it")
    return program


def _as_fields(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry with tuples for its lists, and its variables in order, which makes equal programs equal."""
    args, variables = entry.get("args") or (), entry.get("env") or {}
    args = tuple(args) if isinstance(args, list) else args
    variables = tuple(sorted(variables.items())) if isinstance(variables, dict) else variables
    return {**entry, "name": name, "args": args, "env": variables}


def _expanded(value: Any, where: str) -> Any:
    """Return a value with the variables of this process for `${env:NAME}`, `${NAME}` and `${NAME:-default}`."""
    if isinstance(value, tuple):
        return tuple(_expanded(each, where) for each in value)
    if isinstance(value, dict):
        return {key: _expanded(each, where) for key, each in value.items()}
    return _VARIABLE.sub(lambda found: _variable(found, where), value) if isinstance(value, str) else value


def _variable(found: re.Match[str], where: str) -> str:
    name, has_default, default = found[1].removeprefix("env:").partition(":-")
    if name == FOLDER:
        return found[0]
    if name in os.environ or has_default:
        return os.environ.get(name) or default
    raise ValueError(
        f"{where} uses {found[0]}; expected ${{{FOLDER}}}, or ${{env:NAME}} of a variable that is set where this runs"
    )
