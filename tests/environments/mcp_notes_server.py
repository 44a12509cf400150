"""An MCP server that keeps a till in its process and notes in its folder, and can break in several ways."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import EmbeddedResource, ImageContent, TextContent, TextResourceContents

server = MCPServer("notes")
prices: list[int] = []


@server.tool()
def add(price: int, note: str | None = None) -> str:
    """Adds a price to the bill."""
    if price == 13:
        raise ToolError("nothing costs 13")
    prices.append(price)
    return f"The total is {sum(prices)}." + (f" Noted: {note}." if note else "")


@server.tool()
def write(path: str, text: str) -> str:
    """Writes a note. Paths are relative, or begin with the folder's."""
    Path(path).write_text(text, encoding="utf-8")
    return f"Wrote {Path(path).resolve()}."


@server.tool()
def read(path: str) -> str:
    """Reads a note."""
    return Path(path).read_text(encoding="utf-8")


@server.tool()
def ls() -> str:
    """Lists the notes."""
    return "\n".join(sorted(os.listdir()))


@server.tool(structured_output=False)
def look() -> list[Any]:
    """Returns what is not text."""
    note = TextResourceContents(uri="note://1", text="a note", mime_type="text/plain")
    return [
        TextContent(type="text", text="A picture:"),
        ImageContent(type="image", data="aGk=", mime_type="image/png"),
        EmbeddedResource(type="resource", resource=note),
    ]


@server.tool()
def clock() -> str:
    """Tells the time, which no replay gives again."""
    return f"It is {time.time_ns()}."


@server.tool()
def visit() -> str:
    """Counts visits of all attempts, in a file that they share."""
    shared = Path(os.environ["VISITS"])
    with shared.open("a") as visits:
        visits.write("x")
    return f"Visit {shared.stat().st_size}."


@server.tool()
def shout(size: int) -> str:
    """Returns a long text."""
    return "A" + "h" * size + "!"


@server.tool()
async def sleep(seconds: float) -> str:
    """Takes its time, deaf to SIGTERM and to the end of its input, with a program that it has started."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(os.environ["PIDS"]).write_text(f"{os.getpid()} {child.pid} {os.getcwd()}")
    time.sleep(seconds)
    return "Good morning."


@server.tool()
def die(status: int) -> str:
    """Ends the server."""
    print("I am leaving.", file=sys.stderr, flush=True)
    os._exit(status)


if __name__ == "__main__":
    how = sys.argv[1] if len(sys.argv) > 1 else ""
    if how == "hang":
        time.sleep(600)
    if how == "die":
        sys.exit("no license")
    if how == "chat":
        print("Welcome!", flush=True)
        print("ready", file=sys.stderr, flush=True)
    if how == "alone":
        for name in ("add", "write", "read", "ls"):
            server.remove_tool(name)
    server.run("stdio")
