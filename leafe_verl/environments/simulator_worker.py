"""The program of a worker process: creates one simulator and serves calls of its methods until the socket closes.

    <- {"value": null} or {"error": text}      once, when the simulator is ready
    -> [method, arguments]
    <- {"value": ...} or {"error": text}

A message is its size in four bytes, then JSON, so that no received data can run code.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import socket
import struct
import sys
from typing import Any

SIZE = struct.Struct(">I")
PR_SET_PDEATHSIG = 1
ERROR_CHARACTERS = 500


def main() -> None:
    """Serve calls. The command line holds the arguments that `simulator_process._launch` passes, as JSON."""
    descriptor, host, memory_bytes, simulator, arguments = json.loads(sys.argv[1])
    _die_with(host)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=descriptor) as channel:
        os.set_inheritable(descriptor, False)  # if a JVM inherited the socket, the host would not see it close
        with contextlib.suppress(EOFError, OSError):
            _serve(channel, simulator, arguments)
    # A regular exit would wait for threads that libraries leave behind.
    os._exit(0)


def _die_with(host: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != host:  # the host died before the signal was requested
        os._exit(1)


def _serve(channel: socket.socket, simulator: str, arguments: list[Any]) -> None:
    made: list[Any] = []
    _answer(channel, lambda: made.append(_import_class(simulator)(*arguments)))
    while made:
        (size,) = SIZE.unpack(_read(channel, SIZE.size))
        method, values = json.loads(_read(channel, size))
        _answer(channel, lambda: getattr(made[0], method)(*values))  # noqa: B023 - called at once


def _import_class(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _answer(channel: socket.socket, call: Any) -> None:
    try:
        reply = json.dumps({"value": call()})
    except Exception as error:
        reply = json.dumps({"error": f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS]})
    body = reply.encode()
    channel.sendall(SIZE.pack(len(body)) + body)


def _read(channel: socket.socket, size: int) -> bytes:
    parts = []
    while size > 0:
        part = channel.recv(size)
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
