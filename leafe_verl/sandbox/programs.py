"""Judges a whole program by what it writes to stdout for an stdin. The expected output stays outside of the sandbox.

The comparison is that of CodeContests' own checker (`OutputsMatch` and `ValuesMatch` of execution/tester_sandboxer.cc
in google-deepmind/code_contests), but stricter where that checker accepts a wrong answer; see `OutputComparison`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace

from leafe_verl.sandbox.judge import SHOWN_CHARACTERS, CodeVerdict, TestResult, cut_middle, with_room
from leafe_verl.sandbox.protocol import (
    KILLED,
    LOST,
    OUTPUT_TOO_LARGE,
    TIMEOUT,
    Limits,
    ProgramResult,
    Sandbox,
    SandboxLost,
)
from leafe_verl.sandbox.tolerance import Tolerance

NOT_RUN = "not run"
"""`TestResult.error` of the tests after the first failing one, if judging stops there."""


@dataclass(frozen=True)
class ProgramTest:
    stdin: str
    expected: str
    """What the program should write to stdout. It never enters the sandbox."""


@dataclass(frozen=True)
class OutputComparison:
    """Decides whether a program's output counts as the expected output. The defaults are those of CodeContests.

    Both texts are split into tokens at blanks and line ends, so trailing blanks and the layout of lines do not matter.
    The numbers of tokens must be equal, and each pair of tokens must be the same text, or close as numbers if at least
    one of the two is written with a fraction or an exponent.

    This is stricter than CodeContests, which compares any two numbers as doubles: integers must be the same text. So
    1000000000000000001 differs from 1000000000000000000, which is the same double, and 0011 differs from 11, because
    digits may be a string. Only -0 equals 0. As in CodeContests, `nan`, `inf` and numbers beyond the range of a double
    only equal the same text.

    verl's prime_code is looser in other places: it uses numpy's allclose on whole lines (relative 1e-5), and at last a
    comparison of sets of tokens, which accepts any order and repetition.
    """

    absolute: float = 1e-5
    """Numbers are close if they differ by no more than this: `kDoublePrecision` of CodeContests' checker."""
    relative: float = 0.0
    """The same, as a share of the expected number; the wider of the two tolerances applies. CodeContests has no such
    tolerance. It is meant for problems that allow an "absolute or relative error", as many of Codeforces do."""
    ignore_case: bool = True
    """Whether the case of ASCII letters is ignored, as CodeContests does: `YES` equals `Yes`."""

    def matches(self, output: str, expected: str) -> bool:
        """Return whether `output` counts as `expected`."""
        came, wanted = self._tokens(output), self._tokens(expected)
        return len(came) == len(wanted) and all(map(self._same, came, wanted))

    def _tokens(self, text: str) -> list[str]:
        # str.split() and str.lower() would go by Unicode, but a non-breaking space is part of an answer.
        return _TOKEN.findall(text.translate(_TO_LOWER) if self.ignore_case else text)

    def _same(self, came: str, wanted: str) -> bool:
        if came == wanted:
            return True
        if not (_NUMBER.fullmatch(came) and _NUMBER.fullmatch(wanted)):
            return False
        if came.lstrip("+-").isdigit() and wanted.lstrip("+-").isdigit():
            return {came, wanted} == {"-0", "0"}  # the text of a float that was rounded without a fraction
        return Tolerance(self.absolute, self.relative).allows(float(came), float(wanted))


_TOKEN = re.compile(r"[^ \t\n\v\r]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
"""Numbers; float() would also accept 1_000, digits of other scripts, nan and infinity. No character can match in two
ways, because the time for a long token would otherwise grow with the square of its length."""
_TO_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def judge_program(
    code: str,
    tests: Sequence[ProgramTest],
    sandbox: Sandbox,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    comparison: OutputComparison = OutputComparison(),
    concurrency: int = 8,
    stop_at_first_failure: bool = False,
) -> CodeVerdict:
    """Run `code` in a process of its own for each of `tests`, at most `concurrency` at a time, and decide each.

    `limits` applies to each test; its `output_bytes` is raised if the expected output is longer. The `source` of a
    `TestResult` is the test's input, and its texts are shortened. A test passes if the program ended by itself with
    exit code 0 and its output matches. `CodeVerdict.failure` is None, because each test has a run of its own.

    `stop_at_first_failure` saves the runs of the tests after the first failing one, in the order given. They count as
    failed with NOT_RUN, even if they had already ended, so that the verdict does not depend on timing. It is off by
    default, because a reward may be the share of tests that pass.

    Raises ValueError without tests or with `concurrency` below 1, and SandboxLost if a run was lost through no fault of
    the program, so that there is no verdict.
    """
    if not tests:
        raise ValueError("no tests; expected at least one input with its expected output")
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}; expected at least 1")
    schedule = _Schedule(code, tests, sandbox, limits, concurrency)
    not_run = [replace(_undecided(test), error=NOT_RUN) for test in tests]
    results = list(not_run)
    try:
        for index, result in schedule.ended():
            results[index] = _decide(tests[index], result, comparison)
            if stop_at_first_failure and not results[index].passed:
                schedule.stop_after(index)
                results[index + 1 :] = not_run[index + 1 :]
    finally:
        schedule.stop_after(-1)
    return CodeVerdict(tuple(results))


class _Schedule:
    """The runs of one program. They start in order, at most `concurrency` at a time, and none at or after `end`."""

    def __init__(
        self, code: str, tests: Sequence[ProgramTest], sandbox: Sandbox, limits: Limits, concurrency: int
    ) -> None:
        self.end = len(tests)
        self._code, self._tests, self._sandbox, self._limits = code, tests, sandbox, limits
        self._concurrency = concurrency
        self._running: dict[Future[ProgramResult], int] = {}
        self._next = 0

    def ended(self) -> Iterator[tuple[int, ProgramResult]]:
        """Yield each test's index and result as they come. Raises what the sandbox raises."""
        while self._start():
            for future in wait(self._running, return_when=FIRST_COMPLETED).done:
                # An earlier one of these results may have moved `end` before this test.
                if (index := self._running.pop(future, self.end)) < self.end:
                    yield index, future.result()

    def stop_after(self, index: int) -> None:
        """Start no test after the one at `index`, and cancel those that are running."""
        self.end = min(self.end, index + 1)
        for future, running in list(self._running.items()):
            if running >= self.end:
                future.cancel()
                del self._running[future]

    def _start(self) -> bool:
        """Start the runs that may start. Returns whether any run is in progress."""
        while self._next < self.end and len(self._running) < self._concurrency:
            test = self._tests[self._next]
            room = with_room(self._limits, len(test.expected.encode("utf-8", "surrogatepass")))
            run = self._sandbox.execute(self._code, test.stdin, room)
            self._running[run] = self._next
            self._next += 1
        return bool(self._running)


def _decide(test: ProgramTest, result: ProgramResult, comparison: OutputComparison) -> TestResult:
    if result.failure == LOST:
        raise SandboxLost("the sandbox lost a run, so there is no verdict on its program")
    undecided = _undecided(test)
    if result.failure is not None:
        return replace(undecided, error=result.failure)
    passed = comparison.matches(result.stdout, test.expected)
    return replace(undecided, passed=passed, got=cut_middle(result.stdout, SHOWN_CHARACTERS))


def _undecided(test: ProgramTest) -> TestResult:
    expected = cut_middle(test.expected, SHOWN_CHARACTERS)
    return TestResult(cut_middle(test.stdin, SHOWN_CHARACTERS), False, expected=expected)


def describe_failure(test: TestResult, characters: int = 600) -> str:
    """Return what the agent reads about a failing test of `judge_program`: at most `characters`.

    It has the input, and either the program's output and the expected output, or the exception with the lines of code
    that it passed. A result holds nothing of the host, so neither does this text.
    """
    parts = [f"Input:\n{_part(test.source, characters // 4)}"]
    if test.error is not None:
        parts.append(describe_ending(test.error, _ENDINGS) or _part(test.error, characters // 2))
    else:
        parts.append(f"Output:\n{_part(test.got or '', characters // 4)}")
        parts.append(f"Expected output:\n{_part(test.expected or '', characters // 4)}")
    return cut_middle("\n".join(parts), characters)


def _part(text: str, characters: int) -> str:
    # The tokenizer refuses lone surrogates.
    shown = text.strip().encode("utf-8", "backslashreplace").decode()
    return cut_middle(shown, characters) or "(empty)"


def describe_ending(failure: str, endings: Mapping[str, str]) -> str | None:
    """Return what ended a program from outside, in words; None if the code itself raised.

    `endings`: the words for each constant of protocol.py and NOT_RUN that can occur, without KILLED.
    """
    return f"The program was {failure}." if failure.startswith(KILLED) else endings.get(failure)


_ENDINGS = {
    TIMEOUT: "The program ran into its time limit.",
    OUTPUT_TOO_LARGE: "The program wrote too much.",
    NOT_RUN: "The program was not run on this input.",
}
