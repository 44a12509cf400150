"""Settings files that name the MCP server of the tests."""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

SERVER = str(Path(__file__).with_name("mcp_notes_server.py"))


def notes(*how: str, **variables: str) -> dict[str, Any]:
    """Return how the server is started: with arguments, and with variables of its environment."""
    return {"command": sys.executable, "args": [SERVER, *how], "env": variables}


def write_settings(**servers: Any) -> str:
    """Write a file with these servers and return its path. Equal servers give the same file."""
    return _write(json.dumps({"mcpServers": servers}))


@functools.lru_cache(maxsize=64)
def _write(text: str) -> str:
    file = Path(_folder().name, f"{len(list(Path(_folder().name).iterdir()))}.json")
    file.write_text(text, encoding="utf-8")
    return str(file)


@functools.lru_cache(maxsize=1)
def _folder() -> Any:
    return tempfile.TemporaryDirectory(prefix="leafe-mcp-settings-")
