"""What a sandbox is asked and what it answers: the nouns of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

TIMEOUT = "timeout"
KILLED = "killed"
"""Followed by the signal's name in brackets."""
ENDED_EARLY = "ended early"
"""The program left (`os._exit`, a closed answer channel) before every call was answered."""
OUTPUT_TOO_LARGE = "output too large"
MALFORMED = "malformed answer"
LOST = "sandbox lost"
"""The sandbox broke, twice, before the program began: nothing is known about the program. Never a program's doing; one
under which two sandboxes broke after it had begun is KILLED, or a policy could choose to go unscored."""


class SandboxLost(RuntimeError):
    """A run ended as LOST, so that there is no verdict: the attempt is unscored."""


@dataclass(frozen=True)
class Limits:
    """What one run may use. The kernel counts CPU time in whole seconds: a part of a second is rounded up."""

    cpu_seconds: float = 2.0
    wall_seconds: float = 5.0
    memory_bytes: int = 512 * 2**20
    """Address space, the interpreter's own included (about 20 MiB)."""
    output_bytes: int = 64 * 2**10
    """Of the whole answer, all calls together."""


class CallOutcome(Enum):
    VALUE = "value"
    RAISED = "raised"
    UNREPRESENTABLE = "unrepresentable"
    """The call returned something that is no plain value, is too large, or is nested too deeply."""
    NOT_REACHED = "not reached"


@dataclass(frozen=True)
class CallResult:
    """What became of one call."""

    outcome: CallOutcome
    value: Any = None
    """Of a VALUE: None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset or dict of these."""
    text: str = ""
    """Of RAISED: the exception with its last lines. Of UNREPRESENTABLE: the type's name and what stood in the way."""


NOT_REACHED = CallResult(CallOutcome.NOT_REACHED)


@dataclass(frozen=True)
class RunResult:
    """What became of one run. A program that misbehaves is a value here, never an exception."""

    calls: tuple[CallResult, ...]
    """One for each call, in order."""
    failure: str | None = None
    """What ended the run: one of the constants above, or the exception that the code or set-up raised. None: nothing
    did, and every call was reached."""
    confinement: tuple[str, ...] = ()
    """What held the program besides resource limits: any of `bubblewrap`, `landlock`, `seccomp`."""


@dataclass(frozen=True)
class ProgramResult:
    """What became of a whole program. One that misbehaves is a value here, never an exception."""

    stdout: str
    """What it wrote, decoded as UTF-8, also when it failed; at most `Limits.output_bytes`, and bytes that are no UTF-8
    became U+FFFD."""
    failure: str | None = None
    """One of the constants above, the exception that it raised, or its exit code. None: it ended with exit code 0."""
    confinement: tuple[str, ...] = ()
    """See RunResult."""


class Sandbox(Protocol):
    """Runs programs that nobody has read. Both methods return at once and may be called from any thread.

    Wait by `result()` in a thread, by `await asyncio.wrap_future(future)` in a coroutine. Cancelling a future drops a
    queued run and kills a running one. What waits in a queue does not use up `limits`. A future raises RuntimeError
    when the sandbox itself does not work.
    """

    def call(self, code: str, setup: str, calls: Sequence[str], limits: Limits = ...) -> Future[RunResult]:
        """Execute `code`, then `setup`, then evaluate each of `calls`, all in one namespace of a fresh process."""

    def execute(self, code: str, stdin: str, limits: Limits = ...) -> Future[ProgramResult]:
        """Run `code` as a whole program in a fresh process: `__name__` is "__main__", and `stdin` is all its input."""

    def close(self) -> None:
        """End every process. Runs that are not over are cancelled; later ones are refused. May be called twice."""
