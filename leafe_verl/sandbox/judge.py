"""Judges a solution by asserts. The sandbox returns plain values; what they are compared with stays outside of it."""

from __future__ import annotations

import ast
import functools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from leafe_verl.sandbox.asserts import SplitAssert
from leafe_verl.sandbox.encoding import OUT_OF_TIME, Unrepresentable, encode
from leafe_verl.sandbox.protocol import (
    LOST,
    TIMEOUT,
    TOO_LONG,
    CallOutcome,
    CallResult,
    Files,
    Limits,
    RunResult,
    Sandbox,
    SandboxLost,
)
from leafe_verl.sandbox.raising import SplitRaises, split_test
from leafe_verl.sandbox.solution_setup import solution_setup
from leafe_verl.sandbox.tolerance import Tolerance
from leafe_verl.sandbox.values import PRELUDE, Opaque, to_source, to_text

SHOWN_CHARACTERS = 300
"""Longest text of a value in a test's result."""
NUMBER_BYTES = 40
"""Most bytes that a float takes in an answer. An integer may be answered as one, since 1.0 equals 1."""


@dataclass(frozen=True)
class TestResult:
    """What became of one test: an assert, or a program's input."""

    __test__ = False  # for pytest

    source: str
    passed: bool
    got: str | None = None
    """What came, shortened: the source of the values that the solution returned, joined by commas, or the stdout of a
    program. None if nothing came."""
    expected: str | None = None
    """What was expected, shortened: the source of the other side of `==`, or the expected stdout. None if the assert is
    not such a comparison."""
    error: str | None = None
    """Why nothing could be compared: an exception with its last lines, or what ended the run. None otherwise."""


@dataclass(frozen=True)
class CodeVerdict:
    """What the tests say about a solution."""

    tests: tuple[TestResult, ...]
    """The results, in the order of the tests."""
    failure: str | None = None
    """What ended the run before its last call; see `RunResult.failure`."""

    @property
    def passed(self) -> int:
        """Number of tests that passed."""
        return sum(test.passed for test in self.tests)

    @property
    def share(self) -> float:
        """Share of the tests that passed, 0 to 1."""
        return self.passed / len(self.tests)

    @property
    def all_passed(self) -> bool:
        return self.passed == len(self.tests)

    @property
    def timed_out(self) -> bool:
        """Whether a run ended at its time limit, or what it returned was not known in full by then."""
        errors = [test.error for test in self.tests if test.error]
        return any(error in (TIMEOUT, TOO_LONG) or OUT_OF_TIME in error for error in errors)


def judge(
    code: str,
    tests: Sequence[str],
    setup: str,
    sandbox: Sandbox,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    tolerance: Tolerance = Tolerance(),  # noqa: B008 - frozen
    files: Files | None = None,
    others: Sequence[str] = (),
) -> CodeVerdict:
    """Run `code` once for all `tests`, which are asserts, and decide each of them.

    An assert may also say that a call raises; see raising.py.

    `tolerance` holds for floats that are compared with a literal by `==`. `files`: the folder that the code runs in;
    see `Sandbox.call`. The `output_bytes` of `limits` are raised if the literals of the asserts are longer. `others`:
    the task's asserts that are judged in another run; what only they need of the set-up stays out of this one.

    A check other than `returned == literal`, such as `abs(returned - 1) < 0.1`, is evaluated in a second run, which has
    the returned values, no submitted code, and none of `files`. So it cannot be forged, and a huge value cannot stall
    this process.
    Raises ValueError for an assert that cannot be split, SandboxLost if there is no verdict, and whatever the sandbox
    raises.
    """
    if not tests:
        raise ValueError("no tests; expected at least one assert")
    asserts = [split_test(test, setup) for test in tests]
    room = with_room(limits, sum(_literal_bytes(split.check) for split in asserts))
    calls = [call for split in asserts for call in split.calls]
    beside = solution_setup(setup, asserts, [split_test(test, setup) for test in others])
    run = _answered(sandbox, code, beside, calls, room, files)
    remaining = iter(run.calls)
    answers = [[_identified(next(remaining), n, split) for n in range(len(split.calls))] for split in asserts]
    results = [_result(*pair, run.failure, tolerance) for pair in zip(asserts, answers, strict=True)]
    open_checks = {
        index: _closed_check(asserts[index], answers[index])
        for index, result in enumerate(results)
        if result.error is None and not asserts[index].literal
    }
    if open_checks:
        prelude = "\n".join([PRELUDE, *dict.fromkeys(asserts[index].prelude for index in open_checks)])
        checks = _answered(sandbox, "", prelude, list(open_checks.values()), limits)
        for index, check in zip(open_checks, checks.calls, strict=True):
            results[index] = _with_check(results[index], check, checks.failure)
    return CodeVerdict(tuple(results), run.failure)


def with_room(limits: Limits, size: int) -> Limits:
    """Return limits in whose `output_bytes` an answer of `size` bytes has room."""
    # The program may find out this limit. A power of two tells little about what is expected.
    return replace(limits, output_bytes=max(limits.output_bytes, 1 << (2 * size).bit_length()))


def answer_bytes(values: Iterable[Any]) -> int:
    """Return the number of bytes that an answer with these values takes, or with others that equal them."""
    return sum(map(_value_bytes, values))


def _value_bytes(value: Any) -> int:
    try:
        text = json.dumps(encode(value, [sys.maxsize]))
    except Unrepresentable:  # what stands for an iterator, for one; or no answer can hold the value
        text = to_source(value)
    return len(text) + NUMBER_BYTES * (1 + text.count(","))


@functools.lru_cache(maxsize=4096)  # a task's asserts are judged once for each of its attempts
def _literal_bytes(check: str) -> int:
    """Return the number of bytes that an answer takes which is like the literals of a check."""
    return answer_bytes(_literals(ast.parse(check, mode="eval").body))


def _literals(node: ast.AST) -> Iterator[Any]:
    """Yield the values of the outermost literals of an expression."""
    try:
        yield ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        for child in ast.iter_child_nodes(node):
            yield from _literals(child)


def _answered(
    sandbox: Sandbox, code: str, setup: str, calls: Sequence[str], limits: Limits, files: Files | None = None
) -> RunResult:
    run = sandbox.call(code, setup, calls, limits, files).result()
    if run.failure == LOST:
        raise SandboxLost("the sandbox broke twice before the code could run, so there is no verdict on the code")
    return run


def _result(split: SplitAssert, answers: Sequence[CallResult], failure: str | None, tolerance: Tolerance) -> TestResult:
    """Decide a comparison with a literal. Any other check stays open: not passed, but without an error."""
    if isinstance(split, SplitRaises):
        return _result_of_raising(split, answers[0], failure)
    expected = None if split.expected is None else cut_middle(split.expected, SHOWN_CHARACTERS)
    errors = [error for answer in answers if (error := _error(answer, failure)) is not None]
    if errors:
        return TestResult(split.source, False, expected=expected, error=errors[0])
    got = cut_middle(", ".join(to_text(answer.value) for answer in answers), SHOWN_CHARACTERS)
    undecided = TestResult(split.source, False, got, expected)
    if not split.literal:
        return undecided
    try:
        return replace(undecided, passed=tolerance.agrees(answers[0].value, ast.literal_eval(split.expected or "")))
    except TypeError as error:  # items of a dict, which are compared like a set, with values that cannot be in one
        return replace(undecided, error=f"TypeError: {error}")


def _result_of_raising(split: SplitRaises, answer: CallResult, failure: str | None) -> TestResult:
    raised = answer.outcome is CallOutcome.RAISED
    if answer.outcome is CallOutcome.NOT_REACHED or (raised and split.exceptions.isdisjoint(answer.exceptions)):
        return TestResult(split.source, False, error=_error(answer, failure))
    got = cut_middle(to_text(answer.value), SHOWN_CHARACTERS) if answer.outcome is CallOutcome.VALUE else answer.text
    return TestResult(split.source, raised is split.wanted, got)


def _identified(answer: CallResult, index: int, split: SplitAssert) -> CallResult:
    """Return what stands for a value that cannot be told where the check only asks whether it is None."""
    if answer.outcome is CallOutcome.UNREPRESENTABLE and index in split.identities:
        return CallResult(CallOutcome.VALUE, Opaque(answer.text))
    return answer


def _error(answer: CallResult, failure: str | None) -> str | None:
    if answer.outcome is CallOutcome.VALUE:
        return None
    if answer.outcome is CallOutcome.UNREPRESENTABLE:
        return f"returned no plain value that can be compared: {answer.text}"
    return answer.text if answer.outcome is CallOutcome.RAISED else failure or "not reached"


def _closed_check(split: SplitAssert, answers: Iterable[CallResult]) -> str:
    """Return the check as one expression that contains the returned values."""
    values = [to_source(answer.value) for answer in answers]
    names = [f"returned_{index}" for index in range(len(values))]
    return f"bool((lambda {', '.join(names)}: {split.check})({', '.join(values)}))"


def _with_check(result: TestResult, check: CallResult, failure: str | None) -> TestResult:
    error = _error(check, failure)
    return replace(result, passed=error is None and check.value is True, error=error)


def cut_middle(text: str, characters: int) -> str:
    """Shorten a text to `characters` by cutting out its middle. A text that is short enough stays as it is."""
    if len(text) <= characters:
        return text
    kept = max(characters - len(_CUT), 0)
    tail = kept // 3
    return text[: kept - tail] + _CUT + text[len(text) - tail :]


_CUT = " ... "
