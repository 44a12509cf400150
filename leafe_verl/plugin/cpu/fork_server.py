"""Starts Ray workers as forks of one process, the fork server, which has already imported verl and vLLM.

raylet ──py_executable──► first worker: imports, becomes the fork server ──fork──► that worker
       ──py_executable──► every later worker: sends its command to it ──fork──► that worker

A run without a GPU has ten processes with nearly the same imports, which take 4 to 11 s of a core each. Ray's runtime
environment names the executable of its workers (`py_executable`), and that is this module. If there can be no fork
server, the process becomes the plain interpreter that Ray would have started.
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
"""Modules that the processes of a run import; the fork server imports them, with everything that they import."""
RAYLET = "--raylet-name="
"""Argument of Ray's workers, which names the raylet's socket. That socket's folder belongs to one cluster."""
RAYLET_PID = "RAY_RAYLET_PID"
"""Environment variable that gives a raylet's process id to the processes that it starts."""


@dataclass(frozen=True)
class WorkerCommand:
    """The arguments and surroundings with which a Python interpreter would have been started."""

    arguments: list[str]
    """A script and its arguments."""
    environment: dict[str, str]
    """Environment variables."""
    folder: str
    """Working directory."""


def with_fork_server(runtime_env: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `runtime_env` changed so that workers are forked. RAY_RUNTIME_ENV_HOOK makes Ray call this function."""
    given = dict(runtime_env or {})
    return {**given, "py_executable": given.get("py_executable") or shlex.join([sys.executable, "-m", __name__])}


def main(arguments: Sequence[str]) -> None:
    """Run `SCRIPT ARGUMENT...` in a fork of the fork server. If there is none, this process becomes the fork server."""
    request = WorkerCommand([*arguments], dict(os.environ), os.getcwd())
    address = _address(request)
    if address and _ask(address, request):
        return
    if address and (listener := _listen(address)):
        if forked := _serve(listener, request):
            _become(forked)
        return
    if address and _ask(address, request):  # another process became the fork server meanwhile
        return
    os.execv(sys.executable, [sys.executable, *arguments])


def _address(request: WorkerCommand) -> str | None:
    """Return the path of the fork server's socket; None if the request is not for a worker of Ray."""
    raylets = [each.removeprefix(RAYLET) for each in request.arguments if each.startswith(RAYLET)]
    return f"{os.path.dirname(raylets[0])}/fork-server-{request.environment.get('RAY_JOB_ID', '')}" if raylets else None


def _ask(address: str, request: WorkerCommand) -> bool:
    """Send the request to the fork server and return whether it has forked a process for it."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(address)
            connection.sendall(json.dumps(asdict(request)).encode())
            connection.shutdown(socket.SHUT_WR)
            return bool(connection.recv(1))
    except OSError:
        return False


def _listen(address: str) -> socket.socket | None:
    """Return a socket that listens at `address`; None if the path is in use or was used by an earlier process."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(address)
    except OSError:
        return None
    listener.listen(128)
    return listener


def _serve(listener: socket.socket, first: WorkerCommand) -> WorkerCommand | None:
    """Import MODULES, then fork until the raylet ends.

    Returns in each fork, with its request, and in the fork server when it ends, with None.
    """
    try:  # preferred to the parent: an orphan's parent is process 1, which never ends
        raylet = os.pidfd_open(int(os.environ.get(RAYLET_PID) or os.getppid()))
    except ProcessLookupError:
        return None
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # Libraries read their number of threads from it while they load. Ray's workers set it themselves just as late.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for module in MODULES:
        with suppress(ImportError):  # the worker that needs the module reports that it is missing
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
    """Fork a process for one client's request. Returns the request in the fork, and None in the fork server."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(10)
        try:
            request = WorkerCommand(**json.loads(b"".join(iter(lambda: connection.recv(65536), b""))))
        except (OSError, ValueError):  # the client was killed while it sent its request
            return None
        if _is_fork():
            return request
        connection.sendall(b"+")
    return None


def _is_fork() -> bool:
    """Fork, and return True in the new process."""
    return os.fork() == 0


def _become(request: WorkerCommand) -> None:
    """Run the request's script as a new interpreter would."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # The raylet gives each interpreter a process group, and ends that group when the worker dies.
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
