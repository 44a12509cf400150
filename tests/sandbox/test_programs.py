"""What a whole program must write to pass, which of its tests run, and what is said about a failing one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

import pytest

from leafe_verl.sandbox.pool import SandboxPool
from leafe_verl.sandbox.programs import NOT_RUN, OutputComparison, ProgramTest, describe_failure, judge_program
from leafe_verl.sandbox.protocol import (
    LOST,
    OUTPUT_TOO_LARGE,
    TIMEOUT,
    Limits,
    ProgramResult,
    RunResult,
    SandboxLost,
)

BEYOND_A_DOUBLE = 10**18


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("5", "5"),
        ("5\n", "5"),
        ("5 \r\n\r\n", "5\n"),
        ("\n 1\t2\v3\n", "1 2 3"),
        ("1\n2\n3", "1 2 3"),
        ("YES", "yes"),
        ("", ""),
        (" \n", ""),
        ("naïve Ünï", "Naïve Ünï"),
        ("🙂", "🙂"),
        ("0.5", "0.500000"),
        ("0.500009", "0.5"),
        ("1e-6", "0.0"),
        ("3.", "3"),
        (".5", "0.5"),
        ("+0.5", "0.5"),
        ("-0.0", "0"),
        ("-0", "0"),
        ("0", "-0"),
        ("1E3", "1000"),
        ("7.0", "007"),
        ("1e+18", "1000000000000000000"),
        ("12345678901234567.0", "12345678901234568.0"),
        (str(BEYOND_A_DOUBLE), str(BEYOND_A_DOUBLE)),
        ("9" * 50_000, "9" * 50_000),
        ("nan", "NaN"),
        ("-inf", "-inf"),
        ("1e400", "1e400"),
        ("1_000", "1_000"),
        ("\ud800", "\ud800"),
    ],
)
def test_what_counts_as_the_expected_output(output: str, expected: str) -> None:
    assert OutputComparison().matches(output, expected)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("5", "6"),
        ("", "5"),
        ("5", ""),
        ("5 5", "5"),
        ("5", "5 5"),
        ("12", "1 2"),
        ("1 2", "2 1"),
        ("1 1 2", "1 2"),
        ("Ünï", "ünï"),
        ("\u212a", "k"),
        ("1\u00a02", "1 2"),
        ("1\u20282", "1 2"),
        ("\ufeff5", "5"),
        ("5\0", "5"),
        ("0.500011", "0.5"),
        ("0.49998", "0.5"),
        ("1.5", "1"),
        (str(BEYOND_A_DOUBLE + 1), str(BEYOND_A_DOUBLE)),
        ("9" * 50_000, "9" * 49_999 + "8"),
        ("0011", "11"),
        ("+7", "7"),
        ("-0", "00"),
        ("1_000", "1000"),
        ("1_000.0", "1000.0"),
        ("1,000", "1000"),
        ("0x10", "16"),
        ("\u0661", "1"),
        ("\u0661.0", "1"),
        ("\uff11.0", "1"),
        ("nan", "0"),
        ("nan", "0.5"),
        ("0.5", "nan"),
        ("inf", "1e400"),
        ("inf", "infinity"),
        ("1e400", "2e400"),
        ("1e400", "1e308"),
        ("1.5.2", "1.5"),
        ("1e", "1.0"),
        (".", "0.0"),
        ("True", "1"),
        ("[1]", "1"),
        ("\ufffd", "\ud800"),
        ("1" * 500_000 + "x", "1"),
        ("1." + "1" * 500_000 + "x", "1.5"),
        ("1e" + "1" * 500_000, "1.5"),
    ],
)
def test_what_does_not(output: str, expected: str) -> None:
    assert not OutputComparison().matches(output, expected)


def test_the_tolerances_are_settings() -> None:
    assert OutputComparison(absolute=0.1).matches("0.45", "0.5")
    assert not OutputComparison(absolute=0).matches("0.5000001", "0.5")
    assert OutputComparison(absolute=0).matches("0.50", "0.5")
    assert not OutputComparison().matches("100000.5", "100000.0")
    assert OutputComparison(relative=1e-5).matches("100000.5", "100000.0")
    assert not OutputComparison(relative=1e-5).matches("100001", "100000")
    assert not OutputComparison(ignore_case=False).matches("YES", "yes")


# --- Which tests run ---


class Scripted:
    """A sandbox whose answers the test gives: by a function of the input, or later by hand."""

    def __init__(self, answer: Callable[[str], ProgramResult] | None = None) -> None:
        self.answer = answer
        self.asked: dict[str, Future[ProgramResult]] = {}
        self.limits: list[Limits] = []
        self.came = threading.Condition()

    def execute(self, code: str, stdin: str, limits: Limits = Limits()) -> Future[ProgramResult]:  # noqa: B008
        future: Future[ProgramResult] = Future()
        if self.answer is not None:
            future.set_result(self.answer(stdin))
        with self.came:
            self.asked[stdin] = future
            self.limits.append(limits)
            self.came.notify_all()
        return future

    def call(self, code: str, setup: str, calls: Sequence[str], limits: Limits = Limits()) -> Future[RunResult]:  # noqa: B008
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is held."""

    def wait_for(self, stdin: str) -> None:
        with self.came:
            assert self.came.wait_for(lambda: stdin in self.asked, timeout=10)


def echo(stdin: str) -> ProgramResult:
    return ProgramResult(stdin, None)


def numbered(*expected: str) -> list[ProgramTest]:
    return [ProgramTest(str(index), wanted) for index, wanted in enumerate(expected)]


def test_every_test_is_decided_and_the_verdict_is_in_their_order() -> None:
    verdict = judge_program("", numbered("0", "wrong", "2"), Scripted(echo), concurrency=2)
    assert [test.passed for test in verdict.tests] == [True, False, True]
    assert [test.source for test in verdict.tests] == ["0", "1", "2"]
    assert (verdict.tests[1].got, verdict.tests[1].expected) == ("1", "wrong")
    assert verdict.share == 2 / 3 and not verdict.all_passed and verdict.failure is None


def test_a_program_that_did_not_end_well_fails_whatever_it_wrote() -> None:
    verdict = judge_program("", numbered("0"), Scripted(lambda stdin: ProgramResult(stdin, TIMEOUT)))
    assert verdict.passed == 0
    assert (verdict.tests[0].got, verdict.tests[0].error) == (None, TIMEOUT)


def test_a_lost_run_is_no_verdict() -> None:
    sandbox = Scripted(lambda stdin: ProgramResult("", LOST if stdin == "1" else None))
    with pytest.raises(SandboxLost):
        judge_program("", numbered("", "", ""), sandbox)


def test_an_error_cancels_what_still_runs() -> None:
    sandbox = Scripted()
    failed: list[BaseException] = []

    def judging() -> None:
        try:
            judge_program("", numbered("a", "b"), sandbox)
        except SandboxLost as error:
            failed.append(error)

    thread = threading.Thread(target=judging)
    thread.start()
    sandbox.wait_for("1")
    sandbox.asked["0"].set_result(ProgramResult("", LOST))
    thread.join(10)
    assert failed and sandbox.asked["1"].cancelled()


def test_no_more_tests_run_at_a_time_than_asked_for() -> None:
    sandbox = Scripted()
    thread = threading.Thread(target=judge_program, args=("", numbered("a", "b", "c"), sandbox, Limits()), kwargs={
        "concurrency": 2
    })  # fmt: skip
    thread.start()
    sandbox.wait_for("1")
    assert list(sandbox.asked) == ["0", "1"]
    sandbox.asked["1"].set_result(ProgramResult("b", None))
    sandbox.wait_for("2")
    for stdin in ("0", "2"):
        sandbox.asked[stdin].set_result(ProgramResult("", None))
    thread.join(10)
    assert not thread.is_alive()


def test_stopping_spares_only_what_cannot_change_the_answer() -> None:
    sandbox = Scripted()
    verdicts = []
    tests = numbered("a", "b", "c", "d", "e")

    def judging() -> None:
        verdicts.append(judge_program("", tests, sandbox, concurrency=4, stop_at_first_failure=True))

    thread = threading.Thread(target=judging)
    thread.start()
    sandbox.wait_for("3")
    sandbox.asked["3"].set_result(ProgramResult("d", None))
    sandbox.wait_for("4")
    sandbox.asked["1"].set_result(ProgramResult("wrong", None))
    sandbox.asked["0"].set_result(ProgramResult("wrong as well", None))
    thread.join(10)
    assert sandbox.asked["2"].cancelled() and sandbox.asked["4"].cancelled()
    assert [test.error for test in verdicts[0].tests] == [None, NOT_RUN, NOT_RUN, NOT_RUN, NOT_RUN]
    assert [test.got for test in verdicts[0].tests] == ["wrong as well", None, None, None, None]


@pytest.mark.parametrize("concurrency", [1, 2, 8])
def test_stopping_gives_the_same_verdict_at_any_concurrency(concurrency: int) -> None:
    tests = numbered("0", "1", "wrong", "3", "wrong")
    verdict = judge_program("", tests, Scripted(echo), concurrency=concurrency, stop_at_first_failure=True)
    assert [test.error for test in verdict.tests] == [None, None, None, NOT_RUN, NOT_RUN]
    assert verdict.passed == 2 and verdict.tests[2].got == "2"


def test_a_long_right_answer_has_room_and_the_limit_does_not_tell_its_length() -> None:
    sandbox = Scripted(echo)
    judge_program("", [ProgramTest("", "1" * size) for size in (10, 100_000, 100_001)], sandbox)
    assert [limits.output_bytes for limits in sandbox.limits] == [Limits().output_bytes, 2**18, 2**18]


def test_malformed_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="no tests"):
        judge_program("", [], Scripted(echo))
    with pytest.raises(ValueError, match="concurrency is 0"):
        judge_program("", numbered("0"), Scripted(echo), concurrency=0)


# --- What is said about a failing test ---


def described(result: ProgramResult, stdin: str = "1 2\n", expected: str = "3\n", characters: int = 600) -> str:
    (test,) = judge_program("", [ProgramTest(stdin, expected)], Scripted(lambda _: result)).tests
    return describe_failure(test, characters)


def test_a_wrong_answer_is_shown_beside_the_expected_one() -> None:
    assert described(ProgramResult("4\n", None)) == "Input:\n1 2\nOutput:\n4\nExpected output:\n3"
    assert described(ProgramResult("\n", None), stdin="") == "Input:\n(empty)\nOutput:\n(empty)\nExpected output:\n3"


@pytest.mark.parametrize(
    ("failure", "shown"),
    [
        (TIMEOUT, "The program ran into its time limit."),
        ("killed (SIGSEGV)", "The program was killed (SIGSEGV)."),
        (OUTPUT_TOO_LARGE, "The program wrote too much."),
        ("exit code 3",) * 2,
        ("line 2: print(1 / 0)\nZeroDivisionError: division by zero",) * 2,
    ],
)
def test_what_ended_a_program_is_shown_instead_of_its_output(failure: str, shown: str) -> None:
    assert described(ProgramResult("4\n", failure)) == f"Input:\n1 2\n{shown}"


@pytest.mark.parametrize("characters", [100, 600])
@pytest.mark.parametrize("failure", [None, "E" * 9_000])
def test_what_is_shown_is_bounded_and_can_be_encoded(characters: int, failure: str | None) -> None:
    text = described(ProgramResult("4\ud800" * 9_000, failure), "1 " * 9_000, "3 " * 9_000, characters)
    assert len(text) <= characters
    text.encode()
    assert text.startswith("Input:\n1 1 ") and "4" * 9_000 not in text


# --- Real runs ---


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    pool = SandboxPool()
    yield pool
    pool.close()


SUMS = [ProgramTest("1 2\n", "3\n"), ProgramTest("10 -4\r\n", "6"), ProgramTest(f"{10**18} 1\n", f"{10**18 + 1}")]


@pytest.mark.parametrize(
    "code",
    [
        "a, b = map(int, input().split())\nprint(a + b)",
        "import sys\nprint(sum(map(int, sys.stdin.read().split())))",
        "import sys\nfor line in sys.stdin:\n    sys.stdout.write(str(sum(map(int, line.split()))))",
        "import sys\nprint(sum(map(int, sys.stdin.buffer.readline().split())))\nsys.exit()",
        "def main():\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()",
        "import os\nos.write(1, str(sum(map(int, os.read(0, 100).split()))).encode())",
        "print(sum(map(int, open(0).read().split())))",
    ],
)
def test_programs_read_and_write_as_they_may(code: str, pool: SandboxPool) -> None:
    verdict = judge_program(code, SUMS, pool)
    assert verdict.all_passed, verdict


def test_a_wrong_program_passes_the_tests_it_passes(pool: SandboxPool) -> None:
    verdict = judge_program("a, b = map(int, input().split())\nprint(a + abs(b))", SUMS, pool)
    assert [test.passed for test in verdict.tests] == [True, False, True]
    assert verdict.tests[1].got == "14\n"


def test_the_reader_sees_the_line_that_raised_and_nothing_of_the_host(pool: SandboxPool) -> None:
    verdict = judge_program("x = int(input())\nprint(1 // x)", [ProgramTest("0\n", "1\n")], pool)
    text = describe_failure(verdict.tests[0])
    assert text == "Input:\n0\nline 2: print(1 // x)\nZeroDivisionError: integer division or modulo by zero"


def test_reading_past_the_end_of_the_input_is_an_error_of_the_program(pool: SandboxPool) -> None:
    verdict = judge_program("input()\ninput()", [ProgramTest("1", "1")], pool)
    assert verdict.tests[0].error is not None and "EOFError" in verdict.tests[0].error


def test_text_that_is_no_ascii_comes_and_goes(pool: SandboxPool) -> None:
    verdict = judge_program("print(input()[::-1])", [ProgramTest("é🙂\n", "🙂é")], pool)
    assert verdict.all_passed, verdict


def test_bytes_that_are_no_text_match_nothing(pool: SandboxPool) -> None:
    verdict = judge_program("import os\nos.write(1, b'\\xff')", [ProgramTest("", "\ufffd.")], pool)
    assert verdict.passed == 0


def test_a_long_answer_comes_whole_and_a_flood_does_not(pool: SandboxPool) -> None:
    long = ProgramTest("", " ".join(map(str, range(60_000))))
    assert judge_program("print(*range(60_000))", [long], pool).all_passed
    verdict = judge_program("while True: print('x' * 1000)", [ProgramTest("", "x")], pool)
    assert verdict.tests[0].error == OUTPUT_TOO_LARGE
