"""A sandbox of one fresh process a run, held by resource limits, Landlock and seccomp."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from leafe_verl.sandbox.protocol import (
    ENDED_EARLY,
    KILLED,
    MALFORMED,
    NOT_REACHED,
    OUTPUT_TOO_LARGE,
    TIMEOUT,
    CallOutcome,
    CallResult,
    Limits,
    RunResult,
)
from leafe_verl.sandbox.values import decode

logger = logging.getLogger(__name__)

SLACK_BYTES = 16 * 2**10
"""Beyond `Limits.output_bytes`, for the lines of an answer that carry no value."""
LOOK_SECONDS = 0.2
"""How often to look whether the process is gone while another one holds its answer's pipe open."""


class ProcessSandbox:
    """Runs each program in an interpreter of its own, where it can compute, import the standard library, and no more.

    The process gets no environment, no installed packages, no file it could write and no other process. What it
    prints is dropped. Where the kernel offers Landlock or seccomp alone, that one holds; where neither, `run` raises
    RuntimeError unless `allow_unconfined`.
    """

    def __init__(self, allow_unconfined: bool = False) -> None:
        self.allow_unconfined = allow_unconfined

    def run(self, code: str, setup: str, calls: Sequence[str], limits: Limits = Limits()) -> RunResult:  # noqa: B008
        """See `Sandbox.run`. The process and its folder are gone when this returns or raises."""
        ended = _run_to_the_end(code, setup, calls, limits)
        lines = ended.answer.split(b"\n")[:-1]
        if not lines:
            raise RuntimeError(f"the sandbox's process did not start ({ended.cause or 'no answer'}): {sys.executable}")
        try:
            confinement, failure, results = _parse(lines, len(calls))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            return RunResult((NOT_REACHED,) * len(calls), MALFORMED)
        self._require(confinement)
        if failure is None and len(results) < len(calls):
            failure = ended.cause
        return RunResult((*results, *(NOT_REACHED,) * (len(calls) - len(results))), failure, confinement)

    def _require(self, confinement: tuple[str, ...]) -> None:
        if not confinement and not self.allow_unconfined:
            raise RuntimeError(
                "neither Landlock nor seccomp works here, so that submitted code could read and write what this "
                "process can; run in a container that allows one of them, or accept that by "
                "leafe.environment.options.allow_unconfined=true"
            )
        _note(confinement)


@functools.cache
def _note(confinement: tuple[str, ...]) -> None:
    missing = [name for name in ("landlock", "seccomp") if name not in confinement]
    if missing:
        logger.warning("submitted code runs without %s, which this kernel does not offer", " and ".join(missing))


class _Ended(NamedTuple):
    answer: bytes
    cause: str | None
    """Why no more came; None when every expected line did."""


def _run_to_the_end(code: str, setup: str, calls: Sequence[str], limits: Limits) -> _Ended:
    deadline = time.monotonic() + limits.wall_seconds
    with contextlib.ExitStack() as stack:
        # Its working directory: empty, its own, and not writable.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True))
        # A file, since a process that does not read cannot block the writing of one.
        request = stack.enter_context(tempfile.TemporaryFile("w+", encoding="ascii"))
        reading, writing = _pipe(stack)
        json.dump(_request(code, setup, calls, limits, writing.fileno()), request)
        request.seek(0)
        process = _start(request, writing.fileno(), folder)
        try:
            writing.close()
            expected = 2 + len(calls)
            answer, cause = _read(reading.fileno(), process.pid, deadline, expected, limits.output_bytes + SLACK_BYTES)
        finally:
            cpu_seconds = _end(process)
    if cause == ENDED_EARLY:
        cause = _cause_of_death(process.returncode, cpu_seconds, limits)
    return _Ended(answer, cause)


def _pipe(stack: contextlib.ExitStack) -> tuple[Any, Any]:
    reading, writing = os.pipe()
    return stack.enter_context(open(reading, "rb", buffering=0)), stack.enter_context(open(writing, "wb", buffering=0))


def _request(code: str, setup: str, calls: Sequence[str], limits: Limits, descriptor: int) -> dict[str, Any]:
    cpu = math.ceil(limits.cpu_seconds)
    return {
        "code": code.replace("\r\n", "\n"),
        "setup": setup.replace("\r\n", "\n"),
        "calls": list(calls),
        "answer_descriptor": descriptor,
        "output_bytes": limits.output_bytes,
        "confinement": _program("confinement.py"),
        "limits": {
            "RLIMIT_CPU": (cpu, cpu + 1),
            "RLIMIT_AS": (limits.memory_bytes,) * 2,
            "RLIMIT_FSIZE": (0, 0),
            "RLIMIT_CORE": (0, 0),
            "RLIMIT_NOFILE": (64, 64),
        },
    }


@functools.cache
def _program(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _start(request: Any, descriptor: int, folder: str) -> subprocess.Popen[bytes]:
    # Not -I: it would ignore PYTHONHASHSEED, and a set's order, hence an answer, would differ from run to run.
    # What else -I does, the empty environment and the driver's cleared sys.path do.
    return subprocess.Popen(
        [sys.executable, "-s", "-S", "-B", "-X", "utf8", "-c", _program("driver.py")],
        stdin=request,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PYTHONHASHSEED": "0"},
        cwd=folder,
        pass_fds=(descriptor,),
        start_new_session=True,
    )


def _read(descriptor: int, pid: int, deadline: float, expected: int, limit: int) -> tuple[bytes, str | None]:
    """Read until `expected` lines are there. Returns what was read, and why no more was; never over `limit` bytes."""
    answer = bytearray()
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)
    while answer.count(b"\n") < expected:
        left = deadline - time.monotonic()
        if left <= 0:
            return bytes(answer), TIMEOUT
        if not ready.poll(1000 * min(left, LOOK_SECONDS)):
            if _is_over(pid) and not ready.poll(0):
                return bytes(answer), ENDED_EARLY
            continue
        piece = os.read(descriptor, limit + 1 - len(answer))
        answer += piece
        if not piece:
            return bytes(answer), ENDED_EARLY
        if len(answer) > limit:
            return bytes(answer), OUTPUT_TOO_LARGE
    return bytes(answer), None


def _is_over(pid: int) -> bool:
    """Whether the process has ended; leaves it unreaped, so that its group's number stays taken."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except ChildProcessError:  # reaped by a library that waits for any child
        return True


def _end(process: subprocess.Popen[bytes]) -> float:
    """Kill the process with its group and reap it. Returns the CPU seconds that it used."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except ChildProcessError:  # see _is_over
        process.returncode = 0
        return 0.0
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def _cause_of_death(returncode: int, cpu_seconds: float, limits: Limits) -> str:
    if returncode == -signal.SIGXCPU or (returncode == -signal.SIGKILL and cpu_seconds >= limits.cpu_seconds):
        return TIMEOUT
    if returncode < 0:
        return f"{KILLED} ({signal.Signals(-returncode).name})"
    return ENDED_EARLY


def _parse(lines: list[bytes], num_calls: int) -> tuple[tuple[str, ...], str | None, list[CallResult]]:
    """Return (confinement, failure at definition or None, results of the calls that were answered)."""
    first, *rest = (json.loads(line) for line in lines)
    # Written before any submitted code ran.
    confinement = tuple(first["confinement"])
    if not rest:
        return confinement, None, []
    definition, *answers = rest
    if set(definition) == {"failure"}:
        return confinement, _text(definition["failure"]), []
    if definition != {"defined": True} or len(answers) > num_calls:
        raise ValueError("no line that says whether the code could be defined, or too many lines")
    return confinement, None, list(_results(answers))


def _results(answers: list[Any]) -> Iterator[CallResult]:
    for answer in answers:
        ((kind, content),) = answer.items()
        if kind == "value":
            yield CallResult(CallOutcome.VALUE, decode(content))
        else:
            yield CallResult(CallOutcome[kind.upper()], text=_text(content))


def _text(content: Any) -> str:
    if not isinstance(content, str):
        raise TypeError(f"expected a text, got {type(content).__name__}")
    return content
