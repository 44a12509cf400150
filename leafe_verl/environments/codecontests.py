"""CodeContests, played interactively: the agent sends a program, sees which test fails and how, and corrects it."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from leafe_verl.core.task import Task
from leafe_verl.environments.code_environment import NO_CODE, CodeEnvironment
from leafe_verl.environments.codecontests_rows import (
    build_request,
    build_tests,
    parse_task,
    several_answers,
    time_limit_seconds,
)
from leafe_verl.environments.extraction import Extraction, extract_program
from leafe_verl.environments.options import require_at_least, require_whole
from leafe_verl.environments.sandbox_options import LEAST_MEMORY_MB, choose_sandbox, run_limits
from leafe_verl.sandbox import (
    CodeVerdict,
    Limits,
    OutputComparison,
    ProgramTest,
    Sandbox,
    TestResult,
    cut_middle,
    judge_program,
)
from leafe_verl.sandbox.judge import SHOWN_CHARACTERS
from leafe_verl.sandbox.programs import NOT_RUN, describe_failure
from leafe_verl.sandbox.protocol import TIMEOUT, TOO_LONG

CLOSING = "Send the corrected complete program in one ```python block."
MAX_GENERATED_TESTS = 20
CPU_SECONDS = Limits.cpu_seconds
TIME_FACTOR = 3.0
BATCH = 3
"""Tests that run before the environment looks whether one of them, or all of them together, took too long."""
ALL_SECONDS = 55.0


class CodeContests(CodeEnvironment):
    """The tests are a problem's public tests, which the agent may see, and its hidden private and generated ones.

    The agent learns nothing about the hidden tests except how many fail. Once a test has run into its time limit, or
    all of them have run for `ALL_SECONDS`, the tests after its batch are not run and count as failed.
    """

    def __init__(
        self,
        sandbox: Sandbox | None = None,
        max_generated_tests: int | None = MAX_GENERATED_TESTS,
        cpu_seconds: float = CPU_SECONDS,
        time_factor: float = TIME_FACTOR,
        all_seconds: float = ALL_SECONDS,
        memory_mb: int = 512,
        absolute_tolerance: float = OutputComparison.absolute,
        relative_tolerance: float = OutputComparison.relative,
        feedback_characters: int = 800,
        system_prompt: str = "",
        horizon: int = 4,
        allow_unconfined: bool = False,
        sandbox_workers: int | None = None,
        remember_failures: bool = True,
    ) -> None:
        """`max_generated_tests`: how many of a problem's generated tests are run, from the first; None for all of them.
        The public and private tests always run. Some problems have hundreds of generated tests; with fewer of them,
        more wrong programs pass, which is why CodeContests added them.

        `cpu_seconds`, `memory_mb` (MiB): upper bounds of one test's run; a problem's own limits apply where they are
        tighter. The wall-clock limit is twice the CPU time plus one second. `time_factor`: a problem's own time limit
        is multiplied by it, since it was set for the contest's machine, and mostly for faster languages.
        `all_seconds`: seconds of the clock for all tests of a program, the wait for a free sandbox included; those that
        do not fit in fail. `leafe.environment.step_timeout` must be more: there the attempt would be unscored, which a
        program could choose.
        `absolute_tolerance`, `relative_tolerance`: how far a number with a fraction may be from the expected one, the
        wider of the two. A row's field `tolerance` with `absolute` or `relative` counts before them, and a relative
        error that a problem's statement allows.
        `feedback_characters`: longest observation after the first. `horizon`: actions after which an attempt ends.
        `allow_unconfined`, `sandbox_workers`, `remember_failures`: see MBPP.
        """
        require_whole(1, horizon=horizon)
        require_whole(100, feedback_characters=feedback_characters)
        require_at_least(0, absolute_tolerance=absolute_tolerance, relative_tolerance=relative_tolerance)
        require_at_least(0.01, time_factor=time_factor)
        require_at_least(1, all_seconds=all_seconds)
        if max_generated_tests is not None:
            require_whole(1, max_generated_tests=max_generated_tests)
        self.system_prompt = system_prompt
        self.horizon = horizon
        self.feedback_characters = feedback_characters
        self.max_generated_tests = max_generated_tests
        self.time_factor = time_factor
        self._comparison = OutputComparison(absolute_tolerance, relative_tolerance)
        self.all_seconds = all_seconds
        self._cap = run_limits(cpu_seconds, memory_mb)
        self._sandbox = choose_sandbox(sandbox, sandbox_workers, allow_unconfined)
        self.remember_failures = remember_failures

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Return the task of a row of CodeContests (deepmind/code_contests) or of verl's parquet files.

        The key is the problem's `name`, with its `source` where the row has one. The task does not hold solutions. A
        problem's files (input_file, output_file) are not used, because the request asks for standard input and output.
        Raises ValueError that says what came and what was expected.
        """
        return parse_task(row, default_key)

    @staticmethod
    def several_answers(task: Task) -> str | None:
        """Return how one sees that a task has several right answers, of which one is known; None if nothing tells."""
        return several_answers(task)

    @staticmethod
    def build_request(task: Task) -> str:
        return build_request(task)

    @staticmethod
    def extract(answer: str, task: Task) -> Extraction:
        return extract_program(answer)

    def judge(self, code: str, task: Task) -> CodeVerdict:
        limits = tightest_limits(task.data, self._cap, self.time_factor)
        tests = build_tests(task.data, self.max_generated_tests)
        comparison = with_tolerance(self._comparison, task.data)
        return judge_code(code, tests, self._sandbox, limits, comparison, self.all_seconds)

    def judged_by(self) -> Hashable:
        return self._sandbox, self._cap, self.time_factor, self.max_generated_tests, self._comparison, self.all_seconds

    def describe(self, verdict: CodeVerdict, task: Task) -> str:
        return feedback(verdict, len(task.data["public_tests"]["input"]), self.feedback_characters)


def judge_code(
    code: str,
    tests: Sequence[ProgramTest],
    sandbox: Sandbox,
    limits: Limits,
    comparison: OutputComparison,
    all_seconds: float = ALL_SECONDS,
) -> CodeVerdict:
    """Run a program on tests. Without one, `TestResult.error` is NO_CODE for each test."""
    if not code.strip():
        return CodeVerdict(tuple(_failed(test, NO_CODE) for test in tests))
    results, begun = list[TestResult](), time.monotonic()
    while len(results) < len(tests) and not any(result.error in (TIMEOUT, TOO_LONG) for result in results):
        left = tests[len(results) :]
        fitting = int((all_seconds - (time.monotonic() - begun)) // limits.wall_seconds)
        if batch := left[: min(BATCH, fitting) if results else BATCH]:
            results += judge_program(code, batch, sandbox, limits, comparison).tests
        else:
            results.append(_failed(left[0], TOO_LONG))
    return CodeVerdict((*results, *(_failed(test, NOT_RUN) for test in tests[len(results) :])))


def with_tolerance(comparison: OutputComparison, data: Mapping[str, Any]) -> OutputComparison:
    """Return the comparison of a task: the given one with the task's own tolerance."""
    return replace(comparison, **data.get("tolerance", {}))


def tightest_limits(data: Mapping[str, Any], cap: Limits, time_factor: float = TIME_FACTOR) -> Limits:
    """Return the limits of one test: the problem's own, its time times `time_factor`, where tighter than `cap`."""
    own = time_limit_seconds(data)
    cpu_seconds = cap.cpu_seconds if own is None else min(time_factor * own, cap.cpu_seconds)
    memory = max(min(data["memory_limit_bytes"] or cap.memory_bytes, cap.memory_bytes), LEAST_MEMORY_MB * 2**20)
    return Limits(cpu_seconds, 2 * cpu_seconds + 1, memory, cap.output_bytes)


def feedback(verdict: CodeVerdict, num_public: int, characters: int) -> str:
    """Return what the agent reads about its program: at most `characters`, with the request to correct it at the end.

    The first `num_public` tests may be shown. Of the others, the agent learns how many fail and whether time ran out.
    """
    if verdict.all_passed:
        return f"All {len(verdict.tests)} tests pass."
    room = characters - len(CLOSING) - 1
    public, hidden = verdict.tests[:num_public], verdict.tests[num_public:]
    failing = [test for test in public if not test.passed]
    if verdict.tests[0].error == NO_CODE:
        body = NO_CODE
    elif failing:
        heading = f"{len(public) - len(failing)} of {_tests(len(public), 'public')} passed. This one failed:\n"
        body = heading + describe_failure(failing[0], room - len(heading))
    else:
        body = _describe_hidden(hidden, bool(public))
    return f"{cut_middle(body, room)}\n{CLOSING}"


def _describe_hidden(hidden: Sequence[TestResult], any_public: bool) -> str:
    heading = "All public tests passed, but " if any_public else ""
    if any(test.error == TIMEOUT for test in hidden):
        return f"{heading}on a hidden test the program ran into its time limit."
    if any(test.error == TOO_LONG for test in hidden):
        return f"{heading}the hidden tests together took too long, so that some of them were not run."
    failed = sum(not test.passed for test in hidden)
    return f"{heading}{failed} of {_tests(len(hidden), 'hidden')} failed."


def _tests(number: int, kind: str) -> str:
    return f"{number} {kind} {'test' if number == 1 else 'tests'}"


def _failed(test: ProgramTest, error: str) -> TestResult:
    stdin, expected = (cut_middle(text, SHOWN_CHARACTERS) for text in (test.stdin, test.expected))
    return TestResult(stdin, False, expected=expected, error=error)
