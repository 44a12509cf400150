"""MBPP, played interactively: the agent sends code, sees which test fails and how, and sends a correction."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from leafe_verl.core.task import Task
from leafe_verl.environments.code_environment import NO_CODE, CodeEnvironment
from leafe_verl.environments.extraction import Extraction, extract_function
from leafe_verl.environments.hidden_tests import limits_after
from leafe_verl.environments.mbpp_rows import build_request, parse_task
from leafe_verl.environments.mbpp_verdict import judge_plus
from leafe_verl.environments.options import require_at_least, require_whole
from leafe_verl.environments.sandbox_options import OUTPUT_KB, choose_sandbox, run_limits
from leafe_verl.sandbox import (
    CodeVerdict,
    Limits,
    Sandbox,
    TestResult,
    Tolerance,
    cut_middle,
    judge,
    split_test,
)
from leafe_verl.sandbox.programs import describe_ending
from leafe_verl.sandbox.protocol import ENDED_EARLY, MALFORMED, OUTPUT_TOO_LARGE, TIMEOUT

CLOSING = "Send the corrected complete code in one ```python block."
SHOWN_VALUE_CHARACTERS = 120


class MBPP(CodeEnvironment):
    """The tests are the asserts of `test_list`, which the agent sees, and the hidden ones of `challenge_test_list`.

    The agent learns nothing about the hidden asserts except how many fail. Their calls are in a run of their own, since
    a program can see the calls of its run, and says what it likes in an exception.
    """

    def __init__(
        self,
        sandbox: Sandbox | None = None,
        cpu_seconds: float = Limits.cpu_seconds,
        wall_seconds: float = Limits.wall_seconds,
        memory_mb: int = 512,
        output_kb: int = OUTPUT_KB,
        absolute_tolerance: float = 0.0,
        relative_tolerance: float = 0.0,
        feedback_characters: int = 600,
        system_prompt: str = "",
        horizon: int = 4,
        allow_unconfined: bool = False,
        sandbox_workers: int | None = None,
        remember_failures: bool = True,
    ) -> None:
        """`cpu_seconds`, `wall_seconds`, `memory_mb` (MiB) and `output_kb` (KiB, all values that it returns together)
        bound one run of the code; see `sandbox.Limits`. The shown and the hidden asserts have a run each.

        `absolute_tolerance`, `relative_tolerance`: how far a float may be from the literal that an assert compares it
        with by `==`, the wider of the two; 0 for Python's own comparison, as MBPP is judged.
        `feedback_characters`: longest observation after the first. `horizon`: actions after which an attempt ends.
        `allow_unconfined`: run code even where nothing but resource limits would confine it. `sandbox_workers`: runs at
        a time of all environments of a process together; None for one per processor. `remember_failures`: code that has
        failed the tests is not run on them again in the same tree, unless time, memory or the sandbox was the reason.
        """
        require_whole(1, horizon=horizon)
        require_whole(100, feedback_characters=feedback_characters)
        require_at_least(0, absolute_tolerance=absolute_tolerance, relative_tolerance=relative_tolerance)
        self.system_prompt = system_prompt
        self.horizon = horizon
        self.feedback_characters = feedback_characters
        self._sandbox = choose_sandbox(sandbox, sandbox_workers, allow_unconfined)
        self._tolerance = Tolerance(absolute_tolerance, relative_tolerance)
        self._limits = run_limits(cpu_seconds, memory_mb, wall_seconds, output_kb)
        self.remember_failures = remember_failures

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Return the task of a row of MBPP, of its sanitized form, of MBPP+ (the hub's form or EvalPlus' own file), or
        of verl's parquet files.

        `default_key` is the key of a row without a task_id. The task holds the reference solution only where nothing
        else tells what is expected: in EvalPlus' own file, and for three functions on the hub. Raises ValueError that
        says what came and what was expected.
        """
        return parse_task(row, default_key)

    @staticmethod
    def build_request(task: Task) -> str:
        return build_request(task)

    @staticmethod
    def extract(answer: str, task: Task) -> Extraction:
        return extract(answer, task.data)

    def judge(self, code: str, task: Task) -> CodeVerdict:
        return judge_code(code, task.data, self._sandbox, self._limits, self._tolerance)

    def judged_by(self) -> Hashable:
        return self._sandbox, self._limits, self._tolerance

    def describe(self, verdict: CodeVerdict, task: Task) -> str:
        return feedback(verdict, len(task.data["test_list"]), self.feedback_characters)


def extract(answer: str, data: Mapping[str, Any]) -> Extraction:
    """Return the code in an answer that defines what the shown asserts call. The hidden ones have no say in it."""
    names = (split_test(test, data["test_setup_code"]).names for test in data["test_list"])
    return extract_function(answer, frozenset().union(*names))


def judge_code(
    code: str,
    data: Mapping[str, Any],
    sandbox: Sandbox,
    limits: Limits,
    tolerance: Tolerance = Tolerance(),  # noqa: B008 - frozen
) -> CodeVerdict:
    """Run code on a task's asserts, the shown ones first, and then the hidden ones in a run of their own.

    `CodeVerdict.failure` is that of the run of the shown ones, which is not followed by another one if it failed. Where
    there is no code, all fail, and it is NO_CODE.
    """
    shown, hidden, setup = data["test_list"], data["challenge_test_list"], data["test_setup_code"]
    if not code.strip():
        return CodeVerdict(_failed([*shown, *hidden], NO_CODE), NO_CODE)
    if "plus" in data:
        return judge_plus(code, data, sandbox, limits)
    begun = time.monotonic()
    first = judge(code, shown, setup, sandbox, limits, tolerance, others=hidden)
    if first.failure is not None or not hidden:
        return CodeVerdict((*first.tests, *_failed(hidden, first.failure)), first.failure)
    others = judge(code, hidden, setup, sandbox, limits_after(begun, limits), tolerance, others=shown)
    return CodeVerdict((*first.tests, *others.tests))


def _failed(tests: Sequence[str], reason: str | None) -> tuple[TestResult, ...]:
    return tuple(TestResult(test, False, error=reason) for test in tests)


def feedback(verdict: CodeVerdict, num_shown: int, characters: int) -> str:
    """Return what the agent reads about its code: at most `characters`, with the request to correct it at the end.

    The first `num_shown` tests may be shown. The agent only learns how many of the others fail.
    """
    if verdict.all_passed:
        return f"All {len(verdict.tests)} tests pass."
    # The tokenizer refuses lone surrogates.
    body = _describe_failures(verdict, num_shown).encode("utf-8", "backslashreplace").decode()
    return f"{cut_middle(body, characters - len(CLOSING) - 1)}\n{CLOSING}"


def _describe_failures(verdict: CodeVerdict, num_shown: int) -> str:
    shown, hidden = verdict.tests[:num_shown], verdict.tests[num_shown:]
    failing = [test for test in shown if not test.passed]
    if failing and failing[0].error == NO_CODE:
        return NO_CODE
    if failing and verdict.failure is not None and describe_ending(verdict.failure, _ENDINGS) is None:
        return f"The code fails before any test runs:\n{verdict.failure}"
    if failing:
        return f"{_count_passing(len(shown) - len(failing), len(shown))} This one fails:\n{_describe_test(failing[0])}"
    failed = sum(not test.passed for test in hidden)
    verb = "fails" if failed == 1 else "fail"
    return f"All shown tests pass, but {failed} of {len(hidden)} hidden {_tests(len(hidden))} {verb}."


def _count_passing(passing: int, total: int) -> str:
    return f"{passing} of {total} shown {_tests(total)} {'passes' if passing == 1 else 'pass'}."


def _tests(number: int) -> str:
    return "test" if number == 1 else "tests"


def _describe_test(test: TestResult) -> str:
    lines = [cut_middle(test.source, SHOWN_VALUE_CHARACTERS)]
    if test.got is not None:
        expected = "" if test.expected is None else f"; expected {cut_middle(test.expected, SHOWN_VALUE_CHARACTERS)}"
        lines.append(f"It returned {cut_middle(test.got, SHOWN_VALUE_CHARACTERS)}{expected}.")
    if test.error is not None:
        lines.append(describe_ending(test.error, _ENDINGS) or cut_middle(test.error, 2 * SHOWN_VALUE_CHARACTERS))
    return "\n".join(lines)


_ENDINGS = {
    TIMEOUT: "The program ran into its time limit.",
    ENDED_EARLY: "The program exited before it returned a result.",
    OUTPUT_TOO_LARGE: "The program returned too much.",
    MALFORMED: "The program wrote where only results belong.",
}
