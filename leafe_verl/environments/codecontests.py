"""CodeContests, played interactively: the agent sends a program, sees which test fails and how, and corrects it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from leafe_verl.core.environment import Step
from leafe_verl.core.task import Task
from leafe_verl.environments.codecontests_rows import (
    build_request,
    build_row,
    build_tests,
    parse_task,
    time_limit_seconds,
)
from leafe_verl.environments.mbpp import extract_code
from leafe_verl.sandbox import (
    CodeVerdict,
    Limits,
    ProgramTest,
    Sandbox,
    TestResult,
    cut_middle,
    default_pool,
    judge_program,
)
from leafe_verl.sandbox.judge import SHOWN_CHARACTERS
from leafe_verl.sandbox.programs import NOT_RUN, describe_failure
from leafe_verl.sandbox.protocol import TIMEOUT

CLOSING = "Send the corrected complete program in one ```python block."
NO_CODE = "The answer holds no code."
MAX_GENERATED_TESTS = 20
CPU_SECONDS = 4.0
BATCH = 4
"""Tests that are run before it is seen whether one ran into its time limit. Where each of them does, a step takes
BATCH times the wall-clock limit at worst, which must stay below leafe.environment.step_timeout."""
LEAST_MEMORY = 64 * 2**20
"""Bytes; below, an interpreter does not start."""


@dataclass(frozen=True)
class CodeContestsSnapshot:
    """A state: what came before matters only for the reward of what comes next."""

    task: Task
    turns: int = 0
    """Actions taken."""
    score: float = 0.0
    """Share of the tests that the latest action's program passed, which the rewards so far add up to."""


class CodeContests:
    """Core's Environment. An attempt's return is the share of all tests that its last action's program passed.

    The public tests may be shown; of the private and the generated ones, nothing but how many fail. Once a test ran
    into its time limit, no further ones are run, and these count as failed.
    """

    def __init__(
        self,
        sandbox: Sandbox | None = None,
        max_generated_tests: int | None = MAX_GENERATED_TESTS,
        cpu_seconds: float = CPU_SECONDS,
        memory_mb: int = 512,
        feedback_characters: int = 800,
        system_prompt: str = "",
        horizon: int = 4,
        allow_unconfined: bool = False,
        sandbox_workers: int | None = None,
    ) -> None:
        """`max_generated_tests`: of a problem's generated tests, the first ones are run; None: all of them. The public
        and the private ones are always run. Fewer let more wrong programs pass (CodeContests added the generated ones
        for that reason); some problems have hundreds.

        `cpu_seconds`, `memory_mb` (MiB): bounds on one test's run, whatever the problem's own limits are; these hold
        where they are tighter. Its wall-clock limit is twice its CPU time and one second.
        `feedback_characters` bounds an observation after the first. `horizon`: actions after which an unsolved
        attempt is truncated. `allow_unconfined`, `sandbox_workers`: see MBPP.
        """
        for option, value, least in (
            ("horizon", horizon, 1),
            ("feedback_characters", feedback_characters, 100),
            ("max_generated_tests", 1 if max_generated_tests is None else max_generated_tests, 1),
        ):
            if value < least:
                raise ValueError(f"leafe.environment.options.{option} is {value!r}; expected at least {least}")
        self.system_prompt = system_prompt
        self.horizon = horizon
        self.feedback_characters = feedback_characters
        self.max_generated_tests = max_generated_tests
        self._cap = Limits(cpu_seconds, memory_bytes=memory_mb * 2**20)
        self._sandbox = sandbox or default_pool(sandbox_workers, allow_unconfined)
        self._state: CodeContestsSnapshot | None = None

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Return the task of a row: CodeContests' own (deepmind/code_contests), or verl's parquet.

        The key is `name`, with `source` where the row has it. Solutions stay out of the task; a problem's files
        (input_file, output_file) are not used, since the request asks for standard input and output. Raises ValueError
        that says what came and what was expected.
        """
        return parse_task(row, default_key)

    @classmethod
    def verl_row(cls, task: Task, split: str, index: int) -> dict[str, Any]:
        """Return verl's parquet row, which `task` reads back and reward_fns/codecontests.py scores."""
        return build_row(task, split, index)

    def reset(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        self._state = CodeContestsSnapshot(task)
        return build_request(task), {}

    def step(self, action: str) -> Step:
        state = self._playing()
        verdict = judge_answer(action, state.task.data, self._sandbox, self._cap, self.max_generated_tests)
        self._state = replace(state, turns=state.turns + 1, score=verdict.share)
        success = verdict.all_passed
        return Step(
            observation=feedback(verdict, len(state.task.data["public_tests"]["input"]), self.feedback_characters),
            reward=verdict.share - state.score,
            terminated=success,
            truncated=not success and self._state.turns >= self.horizon,
            info={"success": success, "error": not success, "passed": verdict.passed, "total": len(verdict.tests)},
        )

    def snapshot(self) -> CodeContestsSnapshot:
        return self._playing()

    def restore(self, snapshot: CodeContestsSnapshot) -> int:
        self._state = snapshot
        return 0

    def close(self) -> None:
        """Nothing is held between steps, and a step ends within its own limit."""

    def _playing(self) -> CodeContestsSnapshot:
        if self._state is None:
            raise RuntimeError("no task is being played; call reset or restore first")
        return self._state


def judge_answer(
    answer: str,
    data: Mapping[str, Any],
    sandbox: Sandbox,
    cap: Limits = Limits(CPU_SECONDS),  # noqa: B008 - frozen
    max_generated: int | None = MAX_GENERATED_TESTS,
) -> CodeVerdict:
    """Run the program in `answer` on a task's tests. A `TestResult.error` is NO_CODE where there is no program."""
    tests = build_tests(data, max_generated)
    code = extract_code(answer)
    if not code.strip():
        return CodeVerdict(tuple(_failed(test, NO_CODE) for test in tests))
    limits, results = tightest_limits(data, cap), list[TestResult]()
    while len(results) < len(tests) and all(result.error != TIMEOUT for result in results):
        batch = tests[len(results) : len(results) + BATCH]
        results += judge_program(code, batch, sandbox, limits).tests
    return CodeVerdict((*results, *(_failed(test, NOT_RUN) for test in tests[len(results) :])))


def tightest_limits(data: Mapping[str, Any], cap: Limits) -> Limits:
    """Return the limits of one test: the problem's own, where these are tighter than `cap`."""
    cpu_seconds = min(time_limit_seconds(data) or cap.cpu_seconds, cap.cpu_seconds)
    memory = max(min(data["memory_limit_bytes"] or cap.memory_bytes, cap.memory_bytes), LEAST_MEMORY)
    return Limits(cpu_seconds, 2 * cpu_seconds + 1, memory, cap.output_bytes)


def feedback(verdict: CodeVerdict, num_public: int, characters: int) -> str:
    """Return what the agent reads about its program, at most `characters` long, with the request to correct it.

    The first `num_public` tests may be shown; of the others, only how many fail and whether time ran out.
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
        body = _about_hidden(hidden, bool(public))
    return f"{cut_middle(body, room)}\n{CLOSING}"


def _about_hidden(hidden: Sequence[TestResult], any_public: bool) -> str:
    heading = "All public tests passed, but " if any_public else ""
    if any(test.error == TIMEOUT for test in hidden):
        return f"{heading}on a hidden test the program ran into its time limit."
    failed = sum(not test.passed for test in hidden)
    return f"{heading}{failed} of {_tests(len(hidden), 'hidden')} failed."


def _tests(number: int, kind: str) -> str:
    return f"{number} {kind} {'test' if number == 1 else 'tests'}"


def _failed(test: ProgramTest, error: str) -> TestResult:
    stdin, expected = (cut_middle(text, SHOWN_CHARACTERS) for text in (test.stdin, test.expected))
    return TestResult(stdin, False, expected=expected, error=error)
