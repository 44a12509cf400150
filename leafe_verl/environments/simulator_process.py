"""A child process that runs one simulator of another package, under limits, and dies with this process.

The child is a fresh interpreter, never a fork, because a Ray worker has threads.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leafe_verl.core.environment import EnvironmentFailure
from leafe_verl.environments.options import SETTING
from leafe_verl.environments.simulator_worker import SIZE
from leafe_verl.processes import signal_name


@dataclass(frozen=True)
class SimulatorProgram:
    """What a process runs."""

    simulator: str
    """The simulator's class as `module:Class`. Its public methods take and return JSON values. Only the child imports
    it."""
    arguments: tuple[Any, ...] = ()
    """JSON values for the constructor of the class."""
    variables: tuple[tuple[str, str], ...] = ()
    """Environment variables (name, value) of the child, in addition to those of this process."""


@dataclass(frozen=True)
class SimulatorLimits:
    """What a process may use before it is killed. Each field is an option of the environment with the same name."""

    start_seconds: float = 60.0
    """Longest time from starting the process until the simulator is ready."""
    call_seconds: float = 30.0
    """Longest time of one call: a reset or a step."""
    wait_seconds: float = 60.0
    """Longest wait for a process that is not in a call."""
    memory_mb: int = 1024
    """Private memory of each process, MiB; a JVM that it starts may use as much again. The kernel enforces it as
    RLIMIT_DATA, not as a limit of the address space, of which a JVM reserves far more than it uses."""
    reply_mb: int = 4
    """Size of one reply, MiB."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{SETTING}.{name} is {value!r}; expected a number above 0")


class SimulatorProcess:
    """A worker process. Each of its failures is raised as an EnvironmentFailure; after one, it must be closed."""

    def __init__(self, program: SimulatorProgram, limits: SimulatorLimits) -> None:
        """Start the process. It is ready once `wait_until_ready` has returned."""
        self._program, self._limits = program, limits
        self._lock = threading.Lock()
        self._closed = False
        # Each process has its own folder for temporary files, because a killed process leaves them behind.
        self._folder = tempfile.TemporaryDirectory(prefix="leafe-", ignore_cleanup_errors=True)
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._child = _launcher().submit(_launch, program, limits, theirs.fileno(), self._folder.name).result()
        self.pid = self._child.pid

    def wait_until_ready(self) -> None:
        self._exchange("its start", None, "start_seconds")

    def call(self, method: str, *arguments: Any) -> Any:
        """Return what the simulator's method returns, a JSON value."""
        return self._exchange(method, [method, arguments], "call_seconds")

    def has_ended(self) -> bool:
        """Return whether the process has died between two calls."""
        return self._status() is not None

    def vacate(self) -> None:
        """Do nothing: the next attempt resets the simulator."""

    def kill(self) -> None:
        """Kill the process and what it started. Any thread may call this; a running call fails."""
        with self._lock:
            if not self._closed:  # once it is reaped, its process id may belong to another process
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill the process and release its socket and folder. Must not be called while a call is running."""
        self.kill()
        with self._lock:
            self._closed = True
            self._child.wait()
            self._socket.close()
            self._folder.cleanup()

    def _exchange(self, what: str, request: Any, limit: str) -> Any:
        seconds = getattr(self._limits, limit)
        deadline = time.monotonic() + seconds
        try:
            if request is not None:
                message = json.dumps(request).encode()
                self._socket.settimeout(seconds)
                self._socket.sendall(SIZE.pack(len(message)) + message)
            reply = self._receive(deadline)
        except TimeoutError:
            raise self._failure(f"{what} took longer than {seconds:g} s", limit) from None
        except (EOFError, OSError) as error:
            raise self._failure(f"{what} ended with its process ({self._ending(error)})", "memory_mb") from None
        if "error" in reply:
            limit = "memory_mb" if reply["error"].startswith("MemoryError") else ""
            raise self._failure(f"{what} raised {reply['error']}", limit)
        return reply["value"]

    def _receive(self, deadline: float) -> Mapping[str, Any]:
        (size,) = SIZE.unpack(self._read(SIZE.size, deadline))
        if size > self._limits.reply_mb * 2**20:
            raise self._failure(f"a reply has {size} bytes", "reply_mb")
        body = self._read(size, deadline)
        try:
            reply = json.loads(body)
        except ValueError:
            reply = None
        if not isinstance(reply, dict) or not reply.keys() & {"value", "error"}:
            raise self._failure(f"a reply does not follow the protocol: {body[:80]!r}", "")
        return reply

    def _read(self, size: int, deadline: float) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            self._socket.settimeout(max(deadline - time.monotonic(), 1e-3))
            part = self._socket.recv(min(size, 2**16))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
            if time.monotonic() > deadline:  # a slow trickle of bytes would never run into the socket's timeout
                raise TimeoutError
        return b"".join(parts)

    def _failure(self, what: str, limit: str) -> EnvironmentFailure:
        hint = f"; the limit is {SETTING}.{limit}={getattr(self._limits, limit):g}" if limit else ""
        return EnvironmentFailure(f"{self._program.simulator}: {what}{hint}")

    def _status(self) -> os.waitid_result | None:
        """Return how the process ended; None while it runs. It stays unreaped, so that its group id is not reused."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def _ending(self, error: Exception) -> str:
        """Return in words how the process ended."""
        for _ in range(20):
            if status := self._status():
                if status.si_code == os.CLD_EXITED:
                    return f"exit status {status.si_status}"
                return signal_name(status.si_status)
            time.sleep(0.05)
        return f"it closed its socket: {error!r}"


@functools.cache
def _launcher() -> ThreadPoolExecutor:
    """Return the one thread that starts processes, which lives as long as this process.

    The kernel sends a child its parent-death signal when the thread that started it ends, and core makes each call in
    a thread of its own.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="environment processes")


# A forked copy of this process does not have that thread.
os.register_at_fork(after_in_child=_launcher.cache_clear)


def _launch(
    program: SimulatorProgram, limits: SimulatorLimits, descriptor: int, folder: str
) -> subprocess.Popen[bytes]:
    path = [str(Path(__file__).parents[2]), *(os.path.abspath(each) for each in sys.path if each)]
    variables = {"PYTHONPATH": os.pathsep.join(path), "PYTHONHASHSEED": "0", "TMPDIR": folder}
    variables |= dict(program.variables)
    arguments = [descriptor, os.getpid(), limits.memory_mb * 2**20, program.simulator, program.arguments]
    # Started by -c and not by path: a path would put this folder, whose modules have the names of the packages that
    # they wrap, on the child's sys.path.
    start = "from leafe_verl.environments.simulator_worker import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", start, json.dumps(arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **variables},
        cwd="/",
        pass_fds=(descriptor,),
        start_new_session=True,
    )
