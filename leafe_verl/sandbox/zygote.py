"""The program that a worker starts once. It forks a child for each run, and kills what the run leaves behind.

It talks to the worker by messages over one socket:

    <- READY + JSON {"problem": text or null}      once, at the start
    -> RUN + descriptors                           request and answer; for a whole program, also stdin and stdout
    -> END                                         kill the run; ignored if the run has already ended
    <- ENDED + exit status, CPU seconds            after each run, when nothing of it is left

Only the child reads the request, so this process holds nothing of a run when it forks the next one. The child closes
the socket before it runs submitted code. This module needs only the standard library and starts in a bare interpreter.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import fcntl
import functools
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time

from leafe_verl.sandbox import driver, unpacking
from leafe_verl.sandbox.confinement import Confinement

TYPE_CHECKING = False
if TYPE_CHECKING:  # a smaller zygote forks faster
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

READY, RUN, END, ENDED = b"ready", b"run", b"end", b"ended"
STATUS = struct.Struct("id")
MESSAGE_BYTES = 4096
ANSWER_DESCRIPTOR = 3
MAX_DESCRIPTORS = 64
"""Limit of open descriptors of this process and of a run, so that a run can close all of its own at once."""

COMMON_MODULES = (
    "bisect", "cmath", "collections", "copy", "datetime", "functools", "heapq", "io", "itertools", "math", "operator",
    "random", "re", "sys", "typing",
)  # fmt: skip
"""Modules that are imported before the fork, which saves time. There are no more of them because each module makes
every fork slower: `decimal`, `fractions`, `statistics` and `string` together cost a run as much as all of these."""
ALL_MODULES = (
    *COMMON_MODULES, "abc", "array", "ast", "asyncio", "base64", "calendar", "codecs", "collections.abc",
    "contextlib", "csv", "dataclasses", "decimal", "difflib", "enum", "fractions", "hashlib", "inspect", "json",
    "logging", "numbers", "pprint", "queue", "secrets", "statistics", "string", "struct", "tempfile",
    "textwrap", "threading", "time", "timeit", "traceback", "types", "unicodedata", "urllib.parse", "uuid",
    "warnings", "weakref", "zlib", "encodings.ascii", "encodings.idna", "encodings.latin_1", "encodings.utf_16",
    "encodings.utf_8_sig",
)  # fmt: skip
"""Modules that are imported before the fork if a run cannot open a file."""


class Zygote:
    def __init__(
        self,
        control: socket.socket,
        confinement: Confinement,
        names: list[str],
        children: int,
        writable: str | None = None,
    ) -> None:
        self.control = control
        self.confinement = confinement
        self.names = names
        """Names of what confines a run, which the run's answer repeats."""
        self.children = children
        """Descriptor of the kernel's list of this process's children; -1 if the kernel has no such list."""
        self.writable = writable
        """The only folder in which runs may write; None for none."""
        # The pipe gets a byte when a child dies.
        self.alarm, self._alarm_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._alarm_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        self._events = select.poll()
        self._events.register(self.control, select.POLLIN)
        self._events.register(self.alarm, select.POLLIN)

    def serve(self) -> None:
        """Serve one run after the other until the worker is gone."""
        while True:
            message, descriptors, _, _ = socket.recv_fds(self.control, MESSAGE_BYTES, 4)
            if not message:
                return
            if message == RUN:
                status, cpu_seconds = self.run(functools.partial(self._answer, descriptors), descriptors)
                self.control.send(ENDED + STATUS.pack(status, cpu_seconds))

    def run(self, work: Callable[[], None], descriptors: Sequence[int]) -> tuple[int, float]:
        """Do `work` in a child; this process closes `descriptors`, which only the child uses.

        Returns the exit status and the CPU seconds of the child when it and everything that it started are gone.
        """
        child = os.fork()
        if child == 0:
            try:
                work()
            finally:
                os._exit(driver.SOFTWARE_ERROR)
        for descriptor in descriptors:
            os.close(descriptor)
        try:
            self._wait(child)
        finally:
            # Also if the worker's process was killed; see `Confinement.guard_zygote`.
            ending = self._sweep(child)
        return ending

    def _answer(self, descriptors: list[int]) -> None:
        """In the child: confine this process and run what the request asks for."""
        _forget_signals()
        request = _read_request(descriptors[0])
        os.setsid()
        for source, target in zip(descriptors[1:], (ANSWER_DESCRIPTOR, 0, 1), strict=False):
            os.dup2(source, target)
        gc.enable()
        self.confine(request["limits"])
        if self.writable is not None and request["files"] is not None:
            unpacking.enter(self.writable, request["files"], on_disk=not self.confinement.strict)
        driver.run(request, driver.Answer(ANSWER_DESCRIPTOR, request["output_bytes"]), self.names)

    def confine(self, limits: Mapping[str, tuple[int, int]]) -> None:
        """In the child: give up every right, and every descriptor except the first four."""
        _set_limits(limits)
        if "seccomp" not in self.names:
            # The limit counts all processes and threads of the user, so the only safe number is 0.
            _set_limits({"RLIMIT_NPROC": (0, 0)})
        self.confinement.apply()
        os.closerange(ANSWER_DESCRIPTOR + 1, MAX_DESCRIPTORS)

    def _wait(self, child: int) -> None:
        """Wait until the child is dead, or the worker asks for its end or is gone."""
        while True:
            for descriptor, _ in self._events.poll():
                if descriptor != self.alarm:
                    self.control.recv(MESSAGE_BYTES)
                    return
                os.read(self.alarm, MESSAGE_BYTES)
                if os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
                    return

    def _sweep(self, child: int) -> tuple[int, float]:
        """Kill the child and everything that it started. Returns the child's exit status and CPU seconds."""
        for kill in (os.kill, os.killpg):
            with contextlib.suppress(ProcessLookupError):
                kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
        while self._has_children():
            # This process adopts the processes that left the child's session.
            self._kill_children()
            time.sleep(0.001)
        return status, usage.ru_utime + usage.ru_stime

    def _has_children(self) -> bool:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return False
        return True

    def _kill_children(self) -> None:
        for number in os.pread(self.children, 2**16, 0).split() if self.children >= 0 else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)


def _forget_signals() -> None:
    """In the child: remove the zygote's signal handling."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def open_children() -> int:
    """Return a descriptor of the kernel's list of this process's children; -1 if the kernel has no such list."""
    try:
        return os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _read_request(descriptor: int) -> dict[str, Any]:
    size = os.fstat(descriptor).st_size
    request: dict[str, Any] = json.loads(os.pread(descriptor, size, 0))
    return request


def _set_limits(wanted: Mapping[str, tuple[int, int]]) -> None:
    """Set each limit, named as in `resource`, to (soft, hard), or to the present hard limit if that is lower."""
    for name, (soft, hard) in wanted.items():
        kind = getattr(resource, name)
        present = resource.getrlimit(kind)[1]
        if present != resource.RLIM_INFINITY:
            soft, hard = min(soft, present), min(hard, present)
        resource.setrlimit(kind, (soft, hard))


def _what_is_still_allowed(writable: str | None) -> str | None:
    """In a confined child: try what no run may do. Returns the first thing that is possible, or None."""
    outside = os.path.join(os.path.dirname(writable or "/tmp/x"), f"outside-{os.getpid()}")
    attempts: dict[str, Callable[[], Any]] = {
        "signal the zygote": lambda: os.kill(os.getppid(), 0),
        "list a folder": lambda: os.listdir("/"),
        "read a file of the host": lambda: open("/proc/self/environ").close(),
        "open a file for writing": lambda: open("/dev/null", "w").close(),
        "make a folder": lambda: os.mkdir(outside),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
                continue
        return name
    return None


def _probe(zygote: Zygote, control: socket.socket) -> None:
    """Report to the worker whether a child is confined as it should be."""
    reading, writing = os.pipe()

    def work() -> None:
        _forget_signals()
        os.dup2(writing, ANSWER_DESCRIPTOR)
        try:
            zygote.confine({})
            allowed = _what_is_still_allowed(zygote.writable) if zygote.names else None
            problem = f"a confined process can {allowed}" if allowed else ""
        except OSError as error:
            problem = str(error)
        os.write(ANSWER_DESCRIPTOR, problem.encode() or b"\n")

    zygote.run(work, [writing])
    answer = os.read(reading, MESSAGE_BYTES).decode() or "a child of the zygote died"
    os.close(reading)
    _report(control, answer.strip())


def _report(control: socket.socket, problem: str) -> None:
    control.send(READY + json.dumps({"problem": problem or None}).encode())


def main() -> None:
    settings = json.loads(sys.argv[1])
    control = _reserve_descriptors(settings["control"])
    for name in ALL_MODULES if settings["preload_all"] else COMMON_MODULES:
        importlib.import_module(name)
    _prepare_interpreter()
    _set_limits({"RLIMIT_NOFILE": (MAX_DESCRIPTORS, MAX_DESCRIPTORS), "RLIMIT_CORE": (0, 0)})
    # The list must be opened before files are out of reach.
    children = open_children()
    try:
        confinement = Confinement(settings["landlock"], settings["seccomp"], settings["strict"], settings["writable"])
    except OSError as error:
        return _report(control, str(error))
    confinement.guard_zygote()
    zygote = Zygote(control, confinement, settings["confinement"], children, settings["writable"])
    gc.collect()
    gc.disable()
    gc.freeze()
    _probe(zygote, control)
    zygote.serve()


def _prepare_interpreter() -> None:
    """Leave what submitted code expects of an interpreter, and remove what belongs to this program or the host."""
    for name in [name for name in sys.modules if name.split(".")[0] == "leafe_verl"]:
        del sys.modules[name]
    sys.path[:] = [folder for folder in sys.path if folder]
    sys.argv = [""]
    os.environ.clear()
    # The module `site`, which is not loaded, would define these.
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]


def _reserve_descriptors(control: int) -> socket.socket:
    """Point the first four descriptors to /dev/null, for a child to replace, and move the socket above them."""
    kept = socket.socket(fileno=fcntl.fcntl(control, fcntl.F_DUPFD_CLOEXEC, ANSWER_DESCRIPTOR + 1))
    os.close(control)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(ANSWER_DESCRIPTOR + 1):
        os.dup2(null, descriptor)
    if null > ANSWER_DESCRIPTOR:
        os.close(null)
    return kept
