"""A zygote as the pool sees it: how it is started, runs one program after the other, and is ended."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from leafe_verl.processes import signal_name
from leafe_verl.sandbox.confinement import MAX_THREADS
from leafe_verl.sandbox.protocol import (
    ENDED_EARLY,
    FOLDER_TOO_LARGE,
    KILLED,
    OUTPUT_TOO_LARGE,
    TIMEOUT,
    File,
    Files,
    Limits,
    Link,
)
from leafe_verl.sandbox.scratch import ScratchFolder
from leafe_verl.sandbox.tiers import ENVIRONMENT, Tier, zygote_command
from leafe_verl.sandbox.usage import most_threads, processes_below
from leafe_verl.sandbox.zygote import END, ENDED, MESSAGE_BYTES, READY, RUN, STATUS

logger = logging.getLogger(__name__)

START_SECONDS = 60.0
"""Time for an interpreter to start; generous, for a busy machine."""
BEGIN_SECONDS = 30.0
"""Time for a run to be forked and confined; generous, for a busy machine. The run's own time begins after that."""
GRACE_SECONDS = 10.0
"""Time between asking a zygote to end a run and giving up the zygote; generous, for a busy machine."""
QUIET_SECONDS = 0.02
"""Time before a run's pipes are first read. Until then, a full pipe makes the run wait."""
LINGER_SECONDS = 0.05
"""Time for a run to end by itself after its last answer."""
ANSWER_SLACK_BYTES = 16 * 2**10
"""Size that an answer may have beyond `Limits.output_bytes`, for its lines that carry no value."""
LOOK_SECONDS = 0.05
"""Time between two checks whether a run was cancelled, has too many threads, or has written too much."""
CLOSE_SECONDS = 2.0
"""Time for a zygote to end by itself."""
PIECE_BYTES = 2**16
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
TOO_MANY_THREADS = f"{KILLED} (too many threads)"
CANCELLED = "cancelled"
"""Cause of a run's end that no result shows, because the run's future is cancelled."""


class WorkerLost(Exception):
    """The zygote died or does not answer."""

    def __init__(self, began: bool) -> None:
        super().__init__("the zygote died or does not answer")
        self.began = began
        """Whether submitted code may have run before the loss."""


@dataclass(frozen=True)
class Job:
    """What a zygote's child is asked to do."""

    code: str
    limits: Limits
    setup: str = ""
    calls: tuple[str, ...] | None = None
    """Expressions to evaluate after `code` and `setup`. None if `code` is a whole program, which reads `stdin`."""
    stdin: str = ""
    files: Files | None = None
    """What the run's folder holds. None: it has none."""

    @property
    def request(self) -> bytes:
        cpu = math.ceil(self.limits.cpu_seconds)
        request = {
            "code": self.code.replace("\r\n", "\n"),
            "setup": self.setup.replace("\r\n", "\n"),
            "calls": self.calls,
            "output_bytes": self.limits.output_bytes,
            "limits": {
                "RLIMIT_CPU": (cpu, cpu + 1),
                "RLIMIT_AS": (self.limits.memory_bytes,) * 2,
                "RLIMIT_STACK": (self.limits.memory_bytes // 2,) * 2,
                "RLIMIT_FSIZE": (0 if self.files is None else self.limits.file_bytes,) * 2,
            },
            "files": None if self.files is None else {path: _packed(each) for path, each in self.files.items()},
        }
        return json.dumps(request).encode()


def _packed(entry: File | Link) -> list[str | int]:
    """Return an entry of a folder as JSON that `unpacking.unpack` reads."""
    return [entry.target] if isinstance(entry, Link) else [entry.content.decode("latin-1"), entry.mode]


class Ending(NamedTuple):
    """What came out of a run."""

    answer: bytes
    stdout: bytes
    cause: str | None = None
    """What ended the run from outside or by a signal, or that it left before it had answered its calls; None if it
    reached its end."""
    exit_code: int = 0
    """The exit code; meaningful only if `cause` is None."""


class TierUnavailable(OSError):
    """A zygote of this tier does not work on this machine. The message says why."""


class Worker:
    """Owns a zygote. Belongs to one thread, which must outlive it: a zygote ends with the thread that started it.

    `with_folder`: whether its runs may have a folder in which they write. The constructor raises TierUnavailable, and
    OSError if a zygote cannot be started now, for want of room, of descriptors or of time.
    """

    def __init__(self, tier: Tier, with_folder: bool = False) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process: subprocess.Popen[bytes] | None = None
        self.is_clean = True
        """Whether the folder is empty again after the last run. If not, only `close` may be called."""
        self._folder = ScratchFolder() if with_folder else None
        try:
            with theirs:
                self._process = _start(tier, theirs.fileno(), self._folder)
            self._await_ready(self._process)
        except BaseException:
            self.close()
            raise

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        with process.stderr:
            self._control.settimeout(START_SECONDS)
            try:
                message = self._control.recv(MESSAGE_BYTES)
            except TimeoutError:
                raise TimeoutError(f"a sandbox took longer than {START_SECONDS:.0f} s to start") from None
            self._control.settimeout(None)
            if not message.startswith(READY):
                said = process.stderr.read().decode(errors="replace").strip().splitlines()
                raise TierUnavailable(said[-1] if said else "the zygote died without a word")
        problem = json.loads(message[len(READY) :])["problem"]
        if problem:
            raise TierUnavailable(problem)

    def run(self, job: Job, is_cancelled: Callable[[], bool]) -> Ending:
        """Run a job. On return, nothing of it is left. After a WorkerLost, only `close` may be called."""
        with contextlib.ExitStack() as stack:
            # An answer to calls has a line about the confinement, one about the definition, and one for each call.
            lines = None if job.calls is None else 2 + len(job.calls)
            run = _Run(lines, job.limits, self._folder if job.files is not None else None, self._pid)
            stack.callback(run.close)
            try:
                self._send(job, run)
                status, cpu_seconds = self._follow(run, is_cancelled)
            except OSError:
                raise WorkerLost(bool(run.answer.content)) from None
            ending = run.ending(os.waitstatus_to_exitcode(status), cpu_seconds)
            if self._folder is not None:
                self.is_clean = _emptied(self._folder)
            return ending

    def _send(self, job: Job, run: _Run) -> None:
        with contextlib.ExitStack() as theirs:
            given = [_memory_file(job.request, theirs), run.answer.open(theirs)]
            if job.calls is None:
                stdin = job.stdin.encode("utf-8", "surrogatepass")
                given += [_memory_file(stdin, theirs), run.stdout.open(theirs)]
            socket.send_fds(self._control, [RUN], given)

    def _follow(self, run: _Run, is_cancelled: Callable[[], bool]) -> tuple[int, float]:
        """Read what the run writes, and end it when it must end. Returns its exit status and its CPU seconds."""
        events = select.poll()
        events.register(self._control, select.POLLIN)
        # Most runs end so soon that their pipes are read only once, at the end, and not after every line.
        events.poll(1000 * min(QUIET_SECONDS, run.limits.wall_seconds))
        for stream in run.streams():
            events.register(stream.descriptor, select.POLLIN)
        asked_to_end = False
        while True:
            left = run.deadline - time.monotonic()
            ready = {descriptor for descriptor, _ in events.poll(1000 * min(max(left, 0), LOOK_SECONDS))}
            for stream in run.streams():
                if stream.descriptor in ready and not stream.read():
                    events.unregister(stream.descriptor)
            if self._control.fileno() in ready:
                for stream in run.streams():
                    stream.drain()
                return self._status()
            if asked_to_end and left <= 0:
                raise OSError("no answer to END")
            if not asked_to_end and run.must_end(is_cancelled):
                self._control.send(END)
                run.deadline = time.monotonic() + GRACE_SECONDS
                asked_to_end = True

    @property
    def _pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _status(self) -> tuple[int, float]:
        message = self._control.recv(MESSAGE_BYTES)
        if not message.startswith(ENDED):
            raise OSError("the zygote is gone")
        status, cpu_seconds = STATUS.unpack(message[len(ENDED) :])
        return status, cpu_seconds

    def close(self) -> None:
        """End the zygote and its run, and delete its folder."""
        self._control.close()
        if self._process is not None:
            self._end(self._process)
        if self._folder is not None:
            try:
                self._folder.close()
            except OSError as error:
                logger.warning("a sandbox's folder cannot be deleted: %s", error)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        try:
            # The zygote sees that the socket is closed, ends its run and then itself.
            process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def forget(self) -> None:
        """In a forked copy of this process: close the socket of the zygote, which belongs to the original."""
        self._control.close()


def _emptied(folder: ScratchFolder) -> bool:
    """Empty a folder, and return whether that went well: what a run has left must not cost it its verdict."""
    try:
        folder.empty()
    except OSError as error:
        logger.warning("a sandbox's folder cannot be emptied (%s); another sandbox takes its place", error)
        return False
    return True


def _start(tier: Tier, control: int, folder: ScratchFolder | None) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            zygote_command(tier, control, folder.path if folder else None),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            cwd="/",
            pass_fds=(control,),
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise TierUnavailable(str(error)) from error


def _memory_file(content: bytes, stack: contextlib.ExitStack) -> int:
    """Return the descriptor of a sealed file, which nobody can change.

    A pipe would block this process if the program did not read it.
    """
    descriptor = os.memfd_create("sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    stack.callback(os.close, descriptor)
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


class _Stream:
    """The reading end of a pipe, and what came out of it: up to `limit` bytes and one more."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.content = bytearray()
        self.descriptor = -1
        self.is_open = False

    def open(self, stack: contextlib.ExitStack) -> int:
        """Create the pipe and return its writing end, which `stack` closes."""
        self.descriptor, writing = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, writing)
        os.set_blocking(self.descriptor, False)
        self.is_open = True
        return writing

    def read(self) -> bool:
        """Read one piece. Returns whether more may come."""
        try:
            piece = os.read(self.descriptor, min(PIECE_BYTES, self.limit + 1 - len(self.content)))
        except BlockingIOError:
            return True
        self.content += piece
        self.is_open = bool(piece) and not self.is_too_large
        return self.is_open

    def drain(self) -> None:
        """Read what is left once nobody writes any more."""
        size = -1
        while self.is_open and size < len(self.content):
            size = len(self.content)
            self.read()

    @property
    def is_too_large(self) -> bool:
        return len(self.content) > self.limit


class _Run:
    """A run in progress."""

    def __init__(self, lines: int | None, limits: Limits, folder: ScratchFolder | None, ancestor: int) -> None:
        self.lines = lines
        """Number of lines of a complete answer. None for a whole program, whose answer has more than one line only if
        it failed."""
        self.limits = limits
        self.folder = folder
        """Where it may write; None for nowhere."""
        self.ancestor = ancestor
        """Id of the process that all of the run's processes descend from."""
        self.answer = _Stream(limits.output_bytes + ANSWER_SLACK_BYTES)
        self.stdout = _Stream(limits.output_bytes)
        self.deadline = time.monotonic() + BEGIN_SECONDS
        self.cause: str | None = None
        self._began = False
        self._lingers = False
        self._looks_at = 0.0
        """When its threads and its folder are looked at again. What it writes wakes this process more often."""

    def streams(self) -> list[_Stream]:
        return [self.answer] if self.lines is not None else [self.answer, self.stdout]

    def close(self) -> None:
        for stream in self.streams():
            if stream.descriptor >= 0:
                os.close(stream.descriptor)

    def must_end(self, is_cancelled: Callable[[], bool]) -> bool:
        """Decide whether the run must end now, and note the cause.

        After its last answer, or once it has closed its pipe of answers, a run has LINGER_SECONDS to end by itself.
        """
        now = time.monotonic()
        looks = now >= self._looks_at
        if looks:
            self._looks_at = now + LOOK_SECONDS
        if self.answer.content and not self._began:
            self._began = True
            self.deadline = now + self.limits.wall_seconds
        if is_cancelled():
            self.cause = CANCELLED
        elif any(stream.is_too_large for stream in self.streams()):
            self.cause = OUTPUT_TOO_LARGE
        elif looks and most_threads(pids := list(processes_below(self.ancestor))) > MAX_THREADS:
            self.cause = TOO_MANY_THREADS
        elif looks and self.folder is not None and self.folder.is_over(self.limits, pids):
            self.cause = FOLDER_TOO_LARGE
        elif not self._lingers and self.lines is not None and (self._is_answered or not self.answer.is_open):
            self._lingers = True
            self.deadline = min(self.deadline, now + LINGER_SECONDS)
        elif now >= self.deadline:
            self.cause = None if self._lingers else TIMEOUT
        else:
            return False
        return self.cause is not None or now >= self.deadline

    @property
    def _is_answered(self) -> bool:
        return self.lines is not None and self.answer.content.count(b"\n") >= self.lines

    def ending(self, returncode: int, cpu_seconds: float) -> Ending:
        cause = self.cause
        if cause is None and any(stream.is_too_large for stream in self.streams()):
            cause = OUTPUT_TOO_LARGE
        if cause is None and not self._is_answered:
            cause = self._cause_of_death(returncode, cpu_seconds)
        answer, stdout = bytes(self.answer.content), bytes(self.stdout.content)
        if self.folder is not None:
            answer, stdout = self.folder.hide(answer), self.folder.hide(stdout)
        return Ending(answer, stdout, cause, max(returncode, 0))

    def _cause_of_death(self, returncode: int, cpu_seconds: float) -> str | None:
        if returncode == -signal.SIGXCPU or (returncode == -signal.SIGKILL and cpu_seconds >= self.limits.cpu_seconds):
            return TIMEOUT
        if returncode < 0:
            return f"{KILLED} ({signal_name(-returncode)})"
        return None if self.lines is None else ENDED_EARLY
