"""The verdict on a whole program: it reads stdin and writes stdout, and what it should write stays outside of it.

The comparison is that of CodeContests' own checker (`OutputsMatch` and `ValuesMatch` of execution/tester_sandboxer.cc
in google-deepmind/code_contests), made stricter where that one accepts a wrong answer; `OutputComparison` says where.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace

from leafe_verl.sandbox.judge import SHOWN_CHARACTERS, CodeVerdict, TestResult, cut_middle
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

NOT_RUN = "not run"
"""`TestResult.error` of the tests after the first failing one, where the verdict was to stop there."""


@dataclass(frozen=True)
class ProgramTest:
    stdin: str
    expected: str
    """What the program should write to stdout. Never enters the sandbox."""


@dataclass(frozen=True)
class OutputComparison:
    """When what a program wrote counts as what was expected. The defaults are CodeContests'.

    Both are split into tokens at blanks and line ends, so that neither trailing blanks nor the layout of lines count.
    As many tokens must have come as were expected, and each pair must be the same text, or close as numbers where at
    least one of the two is written with a fraction or an exponent.

    Stricter than CodeContests', which compares any two numbers as doubles: integers must be the same text. So
    1000000000000000001 is not 1000000000000000000, which a double cannot tell apart, and 0011 is not 11, since digits
    may be a string. `nan`, `inf` and numbers beyond a double's range equal nothing but the same text, as there.

    verl's prime_code is looser in other places: numpy's allclose on whole lines (relative 1e-5), and last a comparison
    of sets of tokens, which accepts any order and repetition.
    """

    absolute: float = 1e-5
    """Numbers are close when they differ by less: `kDoublePrecision` of CodeContests' checker."""
    relative: float = 0.0
    """The same as a share of the expected number; the wider of the two holds. CodeContests has none. For problems that
    promise "absolute or relative error", as many of Codeforces' do."""
    ignore_case: bool = True
    """Of ASCII letters, as in CodeContests: `YES` is `Yes`."""

    def matches(self, output: str, expected: str) -> bool:
        """Whether `output` counts as `expected`."""
        came, wanted = self._tokens(output), self._tokens(expected)
        return len(came) == len(wanted) and all(map(self._same, came, wanted))

    def _tokens(self, text: str) -> list[str]:
        # Not str.split() and str.lower(), which go by Unicode: a non-breaking space is part of an answer.
        return _TOKEN.findall(text.translate(_TO_LOWER) if self.ignore_case else text)

    def _same(self, came: str, wanted: str) -> bool:
        if came == wanted:
            return True
        if not (_NUMBER.fullmatch(came) and _NUMBER.fullmatch(wanted)):
            return False
        if came.lstrip("+-").isdigit() and wanted.lstrip("+-").isdigit():
            return False
        first, second = float(came), float(wanted)
        if not (math.isfinite(first) and math.isfinite(second)):
            return False
        return first == second or abs(first - second) < max(self.absolute, self.relative * abs(second))


_TOKEN = re.compile(r"[^ \t\n\v\r]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
"""float() would also take 1_000, digits of other scripts, nan and infinity. No character can match in two ways, or a
long token would take a time that grows with its square."""
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

    `limits` holds for each test; its `output_bytes` is raised where a right answer is longer. A `TestResult` has the
    input as its `source`, and shortened texts. A test passes when the program ended by itself and well, and its output
    matches; `CodeVerdict.failure` is None, since no failure is that of all tests.

    `stop_at_first_failure` saves the runs of the tests after the first failing one, in the order given; these count
    as failed with NOT_RUN, also those that had already ended, so that the verdict does not depend on timing. It
    decides whether all pass and no more, so it is off by default: a reward may be the share.

    Raises ValueError without tests or with `concurrency` under 1, and SandboxLost when a run was lost through no
    fault of the program, so that there is no verdict.
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
    """The runs of one program: started in order, at most `concurrency` at a time, and none at or after `end`."""

    def __init__(
        self, code: str, tests: Sequence[ProgramTest], sandbox: Sandbox, limits: Limits, concurrency: int
    ) -> None:
        self.end = len(tests)
        self._code, self._tests, self._sandbox, self._limits = code, tests, sandbox, limits
        self._concurrency = concurrency
        self._running: dict[Future[ProgramResult], int] = {}
        self._next = 0

    def ended(self) -> Iterator[tuple[int, ProgramResult]]:
        """Yield each test's index and result, as they come. Raises what the sandbox raises."""
        while self._start():
            for future in wait(self._running, return_when=FIRST_COMPLETED).done:
                # An earlier one of these may have put an end before it.
                if (index := self._running.pop(future, self.end)) < self.end:
                    yield index, future.result()

    def stop_after(self, index: int) -> None:
        """Start no test after `index`, and cancel those that run."""
        self.end = min(self.end, index + 1)
        for future, running in list(self._running.items()):
            if running >= self.end:
                future.cancel()
                del self._running[future]

    def _start(self) -> bool:
        """Whether anything runs, after starting what may."""
        while self._next < self.end and len(self._running) < self._concurrency:
            test = self._tests[self._next]
            run = self._sandbox.execute(self._code, test.stdin, _with_room(self._limits, test))
            self._running[run] = self._next
            self._next += 1
        return bool(self._running)


def _with_room(limits: Limits, test: ProgramTest) -> Limits:
    # A power of two, so that the limit, which the program may find, tells little of the expected output.
    wanted = 2 * len(test.expected.encode("utf-8", "surrogatepass"))
    return replace(limits, output_bytes=max(limits.output_bytes, 1 << wanted.bit_length()))


def _decide(test: ProgramTest, result: ProgramResult, comparison: OutputComparison) -> TestResult:
    if result.failure == LOST:
        raise SandboxLost("the sandbox lost a run, so that its program has no verdict")
    undecided = _undecided(test)
    if result.failure is not None:
        return replace(undecided, error=result.failure)
    passed = comparison.matches(result.stdout, test.expected)
    return replace(undecided, passed=passed, got=cut_middle(result.stdout, SHOWN_CHARACTERS))


def _undecided(test: ProgramTest) -> TestResult:
    expected = cut_middle(test.expected, SHOWN_CHARACTERS)
    return TestResult(cut_middle(test.stdin, SHOWN_CHARACTERS), False, expected=expected)


def describe_failure(test: TestResult, characters: int = 600) -> str:
    """Return what the agent reads about one failing test of `judge_program`, at most `characters` long.

    The input, what the program wrote and what was expected; or the input and the exception with the lines of the code
    that it passed. Nothing of the host is in a result, hence neither in this.
    """
    parts = [f"Input:\n{_part(test.source, characters // 4)}"]
    if test.error is not None:
        parts.append(_ending(test.error) or _part(test.error, characters // 2))
    else:
        parts.append(f"Output:\n{_part(test.got or '', characters // 4)}")
        parts.append(f"Expected output:\n{_part(test.expected or '', characters // 4)}")
    return cut_middle("\n".join(parts), characters)


def _part(text: str, characters: int) -> str:
    # A lone surrogate cannot be tokenised.
    shown = text.strip().encode("utf-8", "backslashreplace").decode()
    return cut_middle(shown, characters) or "(empty)"


def _ending(failure: str) -> str | None:
    """What ended a program from outside, in words; None when the code itself raised."""
    return f"The program was {failure}." if failure.startswith(KILLED) else _ENDINGS.get(failure)


_ENDINGS = {
    TIMEOUT: "The program ran into its time limit.",
    OUTPUT_TOO_LARGE: "The program wrote too much.",
    NOT_RUN: "The program was not run on this input.",
}
