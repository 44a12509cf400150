"""Ray workers as forks of one process that has imported verl and vLLM before, where two cores have to start them all.

raylet ──py_executable──► first worker asked for: imports, becomes the fork server ──fork──► that worker
       ──py_executable──► every later one: hands the fork server its command ──fork──► that worker

A run without a GPU has ten processes that import much the same, 4 to 11 s of a core each. Ray's runtime environment
names the executable of its workers (`py_executable`), which is this module. Where there can be no fork server, it goes
on as the plain interpreter that Ray would have started.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import runpy
import selectors
import shlex
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

MODULES = (
    "verl.trainer.main_ppo",
    "verl.trainer.ppo.v1",
    "leafe_verl.plugin.rollout.rollout_worker",
    "verl.workers.rollout.vllm_rollout.vllm_async_server",
)
"""What the processes of a run import, all that hangs on it included."""
RAYLET = "--raylet-name="
"""Argument of Ray's workers: the raylet's socket, in the folder of a cluster's sockets on one machine."""

RAYLET_PID = "RAY_RAYLET_PID"
"""Environment variable in which a raylet tells its processes who it is."""


@dataclass(frozen=True)
class WorkerCommand:
    """What an interpreter would have been started with."""

    arguments: list[str]
    """A script and its arguments."""
    environment: dict[str, str]
    folder: str


def with_fork_server(runtime_env: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a runtime environment whose workers are forked. Ray calls the function that RAY_RUNTIME_ENV_HOOK names."""
    given = dict(runtime_env or {})
    return {**given, "py_executable": given.get("py_executable") or shlex.join([sys.executable, "-m", __name__])}


def main(arguments: Sequence[str]) -> None:
    """Have `SCRIPT ARGUMENT...` run by a fork of the fork server, which this process becomes if there is none."""
    request = WorkerCommand([*arguments], dict(os.environ), os.getcwd())
    address = _address(request)
    if address and _ask(address, request):
        return
    if address and (listener := _listen(address)):
        if forked := _serve(listener, request):
            _become(forked)
        return
    if address and _ask(address, request):  # another worker was quicker to listen
        return
    os.execv(sys.executable, [sys.executable, *arguments])


def _address(request: WorkerCommand) -> str | None:
    """Path of the fork server's socket; None where the process is no worker of Ray."""
    raylets = [each.removeprefix(RAYLET) for each in request.arguments if each.startswith(RAYLET)]
    return f"{os.path.dirname(raylets[0])}/fork-server-{request.environment.get('RAY_JOB_ID', '')}" if raylets else None


def _ask(address: str, request: WorkerCommand) -> bool:
    """Return whether the fork server has forked what was asked for."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(address)
            connection.sendall(json.dumps(asdict(request)).encode())
            connection.shutdown(socket.SHUT_WR)
            return bool(connection.recv(1))
    except OSError:
        return False


def _listen(address: str) -> socket.socket | None:
    """None where another process listens, or has."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(address)
    except OSError:
        return None
    listener.listen(128)
    return listener


def _serve(listener: socket.socket, first: WorkerCommand) -> WorkerCommand | None:
    """Import, then fork until the raylet ends. Returns the request in each fork, None in the fork server at its end."""
    try:  # not the parent's: an orphan's is process 1, which does not end
        raylet = os.pidfd_open(int(os.environ.get(RAYLET_PID) or os.getppid()))
    except ProcessLookupError:
        return None
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # The libraries take their number of threads from it while they are loaded; Ray sets it for its workers as late.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for module in MODULES:
        with suppress(ImportError):  # the worker that needs it says what is missing
            importlib.import_module(module)
    gc.freeze()
    with listener, selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(raylet, selectors.EVENT_READ)
        forked = first if _is_fork() else None
        while forked is None and raylet not in [key.fd for key, _ in selector.select()]:
            forked = _answer(listener)
    os.close(raylet)
    return forked


def _answer(listener: socket.socket) -> WorkerCommand | None:
    """Fork what one client asks for. Returns its request in the fork, None in the fork server."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(10)
        try:
            request = WorkerCommand(**json.loads(b"".join(iter(lambda: connection.recv(65536), b""))))
        except (OSError, ValueError):  # it was killed while it asked
            return None
        if _is_fork():
            return request
        connection.sendall(b"+")
    return None


def _is_fork() -> bool:
    return os.fork() == 0


def _become(request: WorkerCommand) -> None:
    """Go on as the script would in an interpreter of its own."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # As the raylet gives each interpreter that it starts: when a worker dies, it ends the process group.
    os.setpgid(0, 0)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    sys.argv = request.arguments
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
