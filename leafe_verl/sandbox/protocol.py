"""The types of this folder: what a sandbox is asked to run, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

TIMEOUT = "timeout"
TOO_LONG = "all tests together took too long"
"""There was no time left for a test, of a task whose tests have a time limit together."""
KILLED = "killed"
"""Begin of a failure's text; the name of the signal follows in parentheses."""
ENDED_EARLY = "ended early"
"""The program left (by `os._exit` or by closing the pipe of answers) before it answered every call."""
OUTPUT_TOO_LARGE = "output too large"
FOLDER_TOO_LARGE = "folder too large"
"""The program wrote more files or bytes into its folder than `Limits` allow."""
MALFORMED = "malformed answer"
LOST = "sandbox lost"
"""The sandbox broke twice before the program began, so nothing is known about the program, which cannot have caused it.
If two sandboxes break after the program has begun, the program is KILLED; otherwise a policy could choose to go
unscored."""

JUDGES_WORDS = (TIMEOUT, TOO_LONG, ENDED_EARLY, OUTPUT_TOO_LARGE, FOLDER_TOO_LARGE, MALFORMED, LOST)
"""Failures that the judge alone may tell, beside those that begin with KILLED."""


class SandboxLost(RuntimeError):
    """A run ended as LOST. There is no verdict, and the attempt is unscored."""


@dataclass(frozen=True)
class Limits:
    """What one run may use. The kernel counts CPU time in whole seconds, so parts of a second are rounded up."""

    cpu_seconds: float = 8.0
    """Three times what the slowest reference solution of MBPP takes on a busy machine with 2 cores (2.6 s)."""
    wall_seconds: float = 20.0
    """More than `cpu_seconds`, since a run shares its processor with others."""
    memory_bytes: int = 512 * 2**20
    """Size of the address space, including the interpreter's own (about 20 MiB)."""
    output_bytes: int = 64 * 2**10
    """Size of the whole answer, all calls together; of a program, of its stdout."""
    file_bytes: int = 2**20
    """Size of one file in a run's folder, if it has one."""
    folder_bytes: int = 16 * 2**20
    """Size of all files in the folder. This limit and the next are checked while the program runs, several times a
    second, so that a fast program gets beyond them before it is ended."""
    folder_files: int = 1000
    """Number of files, links and folders in the folder."""


@dataclass(frozen=True)
class File:
    """A file of a run's folder."""

    content: bytes
    mode: int = 0o644
    """Permission bits."""


@dataclass(frozen=True)
class Link:
    """A symbolic link of a run's folder."""

    target: str


Files = Mapping[str, File | Link]
"""What a run's folder holds at its start: paths relative to it, with `/` between the names, and what is there."""


class CallOutcome(Enum):
    VALUE = "value"
    RAISED = "raised"
    UNREPRESENTABLE = "unrepresentable"
    """The call returned something that is not a plain value, is too large, or is nested too deeply."""
    NOT_REACHED = "not reached"


@dataclass(frozen=True)
class CallResult:
    """What became of one call."""

    outcome: CallOutcome
    value: Any = None
    """What the call returned, if the outcome is VALUE: None, or a bool, int, float, complex, str or bytes, or a list,
    tuple, set, frozenset or dict of these; or a value of a type that values.py names, such as a date, a range or a view
    of a dict, or what stands there for an iterator or a match."""
    text: str = ""
    """If the outcome is RAISED, the exception with its last lines. If it is UNREPRESENTABLE, the reason, such as the
    type's name."""
    exceptions: tuple[str, ...] = ()
    """If the outcome is RAISED, the names of Python's own exceptions that the raised one is, or is derived from."""


NOT_REACHED = CallResult(CallOutcome.NOT_REACHED)


@dataclass(frozen=True)
class RunResult:
    """What became of one run. A program that misbehaves gives such a result and never raises an exception."""

    calls: tuple[CallResult, ...]
    """One result for each call, in order."""
    failure: str | None = None
    """What ended the run early: one of the constants above, or the exception that the code or set-up raised. None if
    every call was reached."""
    confinement: tuple[str, ...] = ()
    """What confined the program besides resource limits: any of `bubblewrap`, `landlock`, `seccomp`."""


@dataclass(frozen=True)
class ProgramResult:
    """What became of a whole program. A program that misbehaves gives such a result and never raises an exception."""

    stdout: str
    """What the program wrote, even if it failed: up to `Limits.output_bytes`, decoded as UTF-8. Invalid bytes become
    U+FFFD."""
    failure: str | None = None
    """One of the constants above, the exception that it raised, or its exit code. None if it ended with exit code 0."""
    confinement: tuple[str, ...] = ()
    """See RunResult."""


class Sandbox(Protocol):
    """Runs untrusted programs. `call` and `execute` return at once and may be called from any thread.

    Wait for a future by `result()` in a thread, or by `await asyncio.wrap_future(future)` in a coroutine. Cancelling a
    future drops a queued run and kills a running one. The time in the queue does not count against `limits`. A future
    raises RuntimeError if the sandbox itself does not work.
    """

    def call(
        self, code: str, setup: str, calls: Sequence[str], limits: Limits = ..., files: Files | None = None
    ) -> Future[RunResult]:
        """Execute `code`, then `setup`, then evaluate each of `calls`, all in one namespace of a fresh process.

        `files`: a folder that is made for this run and thrown away after it. The program runs in it, can import from
        it, and can write there and nowhere else. None: it has no folder, and writes nothing. Only a sandbox that was
        made for folders takes them.
        """

    def execute(self, code: str, stdin: str, limits: Limits = ..., files: Files | None = None) -> Future[ProgramResult]:
        """Run `code` as a whole program in a fresh process: `__name__` is "__main__", and `stdin` is all its input.

        `files`: as in `call`.
        """

    def close(self) -> None:
        """End every process. Unfinished runs are cancelled, and later ones are refused. May be called twice."""
