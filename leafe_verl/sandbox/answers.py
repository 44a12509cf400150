"""Parsing what came out of a run, which may be anything: submitted code can write to the pipe of answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from leafe_verl.sandbox.protocol import (
    FOLDER_TOO_LARGE,
    JUDGES_WORDS,
    KILLED,
    LOST,
    MALFORMED,
    NOT_REACHED,
    CallOutcome,
    CallResult,
    ProgramResult,
    RunResult,
)
from leafe_verl.sandbox.values import decode
from leafe_verl.sandbox.worker import Ending, Job

KILLED_WITH_SANDBOX = f"{KILLED} (its sandbox was lost, twice)"


def parse_calls(job: Job, ending: Ending) -> RunResult:
    """Return what became of a run of calls."""
    calls = job.calls or ()
    nothing = (NOT_REACHED,) * len(calls)
    if _has_no_answer(ending):
        return RunResult(nothing, ending.cause)
    confinement, lines = _split_answer(ending)
    try:
        failure, results = _read_answers([json.loads(line) for line in lines], len(calls))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, ArithmeticError, MemoryError):
        return RunResult(nothing, MALFORMED, confinement)
    if failure is None and len(results) < len(calls):
        failure = ending.cause
    return RunResult((*results, *nothing[len(results) :]), failure, confinement)


def parse_program(job: Job, ending: Ending) -> ProgramResult:
    """Return what became of a whole program."""
    if _has_no_answer(ending):
        return ProgramResult("", ending.cause)
    confinement, lines = _split_answer(ending)
    stdout = ending.stdout[: job.limits.output_bytes].decode("utf-8", "replace")
    failure = ending.cause
    if failure is None and ending.exit_code:
        failure = _told_failure(lines) or f"exit code {ending.exit_code}"
    return ProgramResult(stdout, failure, confinement)


def _has_no_answer(ending: Ending) -> bool:
    """Return whether the cause says all that is known. A folder may be too large before the code could begin."""
    never_began = ending.cause == FOLDER_TOO_LARGE and b"\n" not in ending.answer
    return never_began or ending.cause in (LOST, KILLED_WITH_SANDBOX)


def _split_answer(ending: Ending) -> tuple[tuple[str, ...], list[bytes]]:
    """Return what confined the run, and the lines after that. The first was written before any submitted code ran."""
    first, *lines = ending.answer.split(b"\n")
    if not lines:
        raise RuntimeError(
            f"a run did not start ({ending.cause or f'exit code {ending.exit_code}'}): the machine is too busy, or the "
            "run's memory limit is too small for an interpreter"
        )
    return tuple(json.loads(first)["confinement"]), lines[:-1]


def _told_failure(lines: list[bytes]) -> str | None:
    """Return what the program's process wrote about its end, which is not to be trusted; None if that is no failure."""
    try:
        return _claim(json.loads(lines[-1])["failure"])
    except (IndexError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _claim(content: Any) -> str:
    """Return what a process says of a failure of its own, never in the words that the judge alone may use."""
    text = _text(content)
    return f"it said {text!r}" if text in JUDGES_WORDS or text.startswith(KILLED) else text


def _read_answers(lines: list[Any], num_calls: int) -> tuple[str | None, list[CallResult]]:
    """Return the failure of the code's definition, or None, and the results of the calls that were answered."""
    if not lines:
        return None, []
    definition, *answers = lines
    if set(definition) == {"failure"}:
        return _claim(definition["failure"]), []
    if definition != {"defined": True} or len(answers) > num_calls:
        raise ValueError("no line that says whether the code could be defined, or too many lines")
    return None, list(_results(answers))


def _results(answers: list[Any]) -> Iterator[CallResult]:
    for answer in answers:
        ((kind, content),) = answer.items()
        if kind == "value":
            yield CallResult(CallOutcome.VALUE, decode(content))
        elif kind == "raised":
            text, *exceptions = content
            yield CallResult(CallOutcome.RAISED, text=_claim(text), exceptions=tuple(map(_text, exceptions)))
        else:
            yield CallResult(CallOutcome[kind.upper()], text=_claim(content))


def _text(content: Any) -> str:
    if not isinstance(content, str):
        raise TypeError(f"expected a text, got {type(content).__name__}")
    return content
