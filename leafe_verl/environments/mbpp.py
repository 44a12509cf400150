"""MBPP, played interactively: the agent sends code, sees which test fails and how, and sends a correction."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from leafe_verl.core.environment import Step
from leafe_verl.core.task import Task
from leafe_verl.environments.mbpp_rows import build_request, build_row, parse_task
from leafe_verl.sandbox import CodeVerdict, Limits, Sandbox, TestResult, cut_middle, default_pool, judge
from leafe_verl.sandbox.protocol import ENDED_EARLY, KILLED, MALFORMED, OUTPUT_TOO_LARGE, TIMEOUT

CLOSING = "Send the corrected complete code in one ```python block."
NO_CODE = "The answer holds no code."
SHOWN_VALUE_CHARACTERS = 120


@dataclass(frozen=True)
class MBPPSnapshot:
    """A state: what came before matters only for the reward of what comes next."""

    task: Task
    seed: int
    turns: int = 0
    """Actions taken."""
    score: float = 0.0
    """Share of all asserts that the latest action's code passed, which the rewards so far add up to."""


class MBPP:
    """Core's Environment. An attempt's return is the share of asserts that its last action's code passed.

    The asserts are the shown ones and the hidden ones (`challenge_test_list`); nothing of the latter is shown but
    how many fail.
    """

    def __init__(
        self,
        sandbox: Sandbox | None = None,
        cpu_seconds: float = 2.0,
        wall_seconds: float = 5.0,
        memory_mb: int = 512,
        feedback_characters: int = 600,
        system_prompt: str = "",
        horizon: int = 4,
        allow_unconfined: bool = False,
        sandbox_workers: int | None = None,
    ) -> None:
        """`cpu_seconds`, `wall_seconds` and `memory_mb` (MiB) bound one run of the code; see `Limits`.

        `feedback_characters` bounds an observation after the first. `horizon`: actions after which an unsolved
        attempt is truncated. `allow_unconfined`: run code also where nothing but resource limits would hold it.
        `sandbox_workers`: runs at a time, of all environments of a process together; None: one for each processor.
        """
        for option, value, least in (("horizon", horizon, 1), ("feedback_characters", feedback_characters, 100)):
            if value < least:
                raise ValueError(f"leafe.environment.options.{option} is {value!r}; expected at least {least}")
        self.system_prompt = system_prompt
        self.horizon = horizon
        self.feedback_characters = feedback_characters
        self._sandbox = sandbox or default_pool(sandbox_workers, allow_unconfined)
        self._limits = Limits(cpu_seconds, wall_seconds, memory_mb * 2**20)
        self._state: MBPPSnapshot | None = None

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Return the task of a row: MBPP's own, MBPP's sanitized, or verl's parquet.

        `default_key` is the key of a row without a task_id. The reference solution stays out of the task. Raises
        ValueError that says what came and what was expected.
        """
        return parse_task(row, default_key)

    @classmethod
    def verl_row(cls, task: Task, split: str, index: int) -> dict[str, Any]:
        """Return verl's parquet row, which `task` reads back and reward_fns/mbpp.py scores."""
        return build_row(task, split, index)

    def reset(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        self._state = MBPPSnapshot(task, seed)
        return build_request(task), {}

    def step(self, action: str) -> Step:
        state = self._playing()
        shown, hidden = state.task.data["test_list"], state.task.data["challenge_test_list"]
        code = extract_code(action)
        if code.strip():
            setup = state.task.data["test_setup_code"]
            verdict = judge(code, [*shown, *hidden], setup, self._sandbox, self._limits)
        else:
            verdict = _nothing_passed([*shown, *hidden])
        self._state = replace(state, turns=state.turns + 1, score=verdict.share)
        success = verdict.all_passed
        return Step(
            observation=feedback(verdict, len(shown), self.feedback_characters),
            reward=verdict.share - state.score,
            terminated=success,
            truncated=not success and self._state.turns >= self.horizon,
            info={"success": success, "error": not success, "passed": verdict.passed, "total": len(verdict.tests)},
        )

    def snapshot(self) -> MBPPSnapshot:
        return self._playing()

    def restore(self, snapshot: MBPPSnapshot) -> int:
        self._state = snapshot
        return 0

    def close(self) -> None:
        """Nothing is held between steps, and a step ends within its own limit."""

    def _playing(self) -> MBPPSnapshot:
        if self._state is None:
            raise RuntimeError("no task is being played; call reset or restore first")
        return self._state


_FENCED = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


def extract_code(action: str) -> str:
    """Return the answer in a text: its last fenced block of Python that compiles and defines a function or class,
    else its first fenced block, else all of it.

    So neither a usage example after the answer nor a block that the token limit cut takes the answer's place.
    """
    blocks = [(match[1].lower(), textwrap.dedent(match[2])) for match in _FENCED.finditer(action) if match[2].strip()]
    for languages in (("python", "py", "python3"), ("",)):
        found = [code for language, code in blocks if language in languages]
        if found:
            return next((code for code in reversed(found) if _defines(code)), found[0])
    return action


def _defines(code: str) -> bool:
    try:
        statements = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for each in statements)


def feedback(verdict: CodeVerdict, num_shown: int, characters: int) -> str:
    """Return what the agent reads about its code, at most `characters` long, with the request to correct it at the end.

    The first `num_shown` tests may be shown; of the others, only how many fail.
    """
    if verdict.all_passed:
        return f"All {len(verdict.tests)} tests pass."
    shown, hidden = verdict.tests[:num_shown], verdict.tests[num_shown:]
    failing = [test for test in shown if not test.passed]
    if failing and failing[0].error == NO_CODE:
        body = NO_CODE
    elif failing and verdict.failure is not None and _ending(verdict.failure) is None:
        body = f"The code fails before any test runs:\n{verdict.failure}"
    elif failing:
        body = f"{_count_passing(len(shown) - len(failing), len(shown))} This one fails:\n{_described(failing[0])}"
    else:
        failed = sum(not test.passed for test in hidden)
        verb = "fails" if failed == 1 else "fail"
        body = f"All shown tests pass, but {failed} of {len(hidden)} hidden {_tests(len(hidden))} {verb}."
    # A lone surrogate cannot be tokenised.
    body = body.encode("utf-8", "backslashreplace").decode()
    return f"{cut_middle(body, characters - len(CLOSING) - 1)}\n{CLOSING}"


def _count_passing(passing: int, total: int) -> str:
    return f"{passing} of {total} shown {_tests(total)} {'passes' if passing == 1 else 'pass'}."


def _tests(number: int) -> str:
    return "test" if number == 1 else "tests"


def _described(test: TestResult) -> str:
    lines = [cut_middle(test.source, SHOWN_VALUE_CHARACTERS)]
    if test.got is not None:
        expected = "" if test.expected is None else f"; expected {cut_middle(test.expected, SHOWN_VALUE_CHARACTERS)}"
        lines.append(f"It returned {cut_middle(test.got, SHOWN_VALUE_CHARACTERS)}{expected}.")
    if test.error is not None:
        lines.append(_ending(test.error) or cut_middle(test.error, 2 * SHOWN_VALUE_CHARACTERS))
    return "\n".join(lines)


def _ending(failure: str | None) -> str | None:
    """What ended a run from outside, in words; None when the code itself raised."""
    if failure and failure.startswith(KILLED):
        return f"The program was {failure}."
    return _ENDINGS.get(failure or "")


_ENDINGS = {
    TIMEOUT: "The program ran into its time limit.",
    ENDED_EARLY: "The program exited before it returned a result.",
    OUTPUT_TOO_LARGE: "The program returned too much.",
    MALFORMED: "The program wrote where only results belong.",
}


def _nothing_passed(tests: Sequence[str]) -> CodeVerdict:
    return CodeVerdict(tuple(TestResult(test, False, error=NO_CODE) for test in tests), NO_CODE)
