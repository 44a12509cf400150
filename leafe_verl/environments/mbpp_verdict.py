"""Judges code on the inputs of a task of MBPP+. Where nothing else tells what is expected, the reference solution does,
which is run once in each process."""

from __future__ import annotations

import ast
import functools
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from leafe_verl.core.environment import EnvironmentFailure
from leafe_verl.environments.hidden_tests import limits_after
from leafe_verl.environments.mbpp_plus import NOT_NONE, PlusTests, agrees
from leafe_verl.environments.options import SETTING
from leafe_verl.environments.python_values import evaluate, parse_expression
from leafe_verl.sandbox import CodeVerdict, Limits, Sandbox, SandboxLost, TestResult, cut_middle, judge, split_assert
from leafe_verl.sandbox.judge import SHOWN_CHARACTERS, answer_bytes, with_room
from leafe_verl.sandbox.protocol import LOST, NOT_REACHED, CallOutcome, CallResult, RunResult
from leafe_verl.sandbox.values import to_source, to_text

REFERENCE_BYTES = 16 * 2**20
"""What the reference solution may return in all. A submitted one may return twice what was expected."""


def judge_plus(code: str, data: Mapping[str, Any], sandbox: Sandbox, limits: Limits) -> CodeVerdict:
    """Run code on the inputs of a task of MBPP+ and compare as EvalPlus does.

    The first results are those of `test_list`: of the inputs that its asserts call, else of the asserts themselves.
    The hidden inputs have a run of their own, unless the run of the shown ones failed; see hidden_tests.py.
    """
    shown, setup, tests = data["test_list"], data["test_setup_code"], _tests(plus_key(data["plus"]))
    inputs = _Inputs(code, setup, tests, _expected(tests, sandbox, limits), sandbox)
    begun = time.monotonic()
    found = _shown_inputs(shown, tests, setup)
    results, failure = inputs.judge(sorted(set(found.values())), limits)
    ended = failure
    if others := [test for test in shown if test not in found]:
        verdict = judge(code, others, setup, sandbox, limits_after(begun, limits))
        failure = failure if found else verdict.failure
        judged = dict(zip(others, verdict.tests, strict=True))
    first = [_renamed(results[found[test]], test) if test in found else judged[test] for test in shown]
    hidden = [index for index in range(len(tests.inputs)) if index not in results]
    rest, _ = inputs.judge(hidden, limits_after(begun, limits), ended)
    return CodeVerdict((*first, *rest.values()), failure)


@dataclass(frozen=True)
class _Inputs:
    """Code, and the inputs that it is judged on."""

    code: str
    setup: str
    tests: PlusTests
    expected: Sequence[Any]
    """What is expected of each input."""
    sandbox: Sandbox

    def judge(
        self, indices: Sequence[int], limits: Limits, ended: str | None = None
    ) -> tuple[dict[int, TestResult], str | None]:
        """Return index -> result of some inputs, and what ended their run early.

        `ended`: why they are not run at all, which is then the error of each; None if they are.
        """
        answers: Sequence[CallResult] = (NOT_REACHED,) * len(indices)
        failure = ended
        if indices and ended is None:
            calls = _calls(self.tests, submitted=True)
            room = with_room(limits, answer_bytes([self.expected[index] for index in indices]))
            run = _run(self.sandbox, self.code, self.setup, [calls[index] for index in indices], room)
            answers, failure = run.calls, run.failure
        pairs = zip(indices, answers, strict=True)
        results = {index: _result(self.tests, index, each, self.expected[index], failure) for index, each in pairs}
        return results, failure


def _shown_inputs(shown: Sequence[str], tests: PlusTests, setup: str) -> dict[str, int]:
    """Return the index of the input that a shown assert calls, of those that call one and nothing else."""
    places = _places(tuple(tests.calls))
    called = {test: [places.get(_normal(call)) for call in split_assert(test, setup).calls] for test in shown}
    return {test: indices[0] for test, indices in called.items() if len(indices) == 1 and indices[0] is not None}


def _renamed(result: TestResult, source: str) -> TestResult:
    return TestResult(source, result.passed, result.got, result.expected, result.error)


@functools.lru_cache(maxsize=512)
def _places(calls: tuple[str, ...]) -> Mapping[str, int]:
    """Return call -> index of its first place, in a form that does not depend on how it was written."""
    return {_normal(call): index for index, call in reversed(list(enumerate(calls)))}


@functools.lru_cache(maxsize=4096)
def _normal(call: str) -> str:
    return ast.unparse(ast.parse(call.strip(), mode="eval"))


def plus_key(plus: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the tests as a key under which what was computed of them is found again."""
    parts = (plus["inputs"], plus["results"])
    inputs, results = (None if part is None else tuple(part) for part in parts)
    return plus["entry_point"], inputs, results, plus["reference"], plus["atol"], plus["as_sets"]


@functools.lru_cache(maxsize=512)
def _tests(key: tuple[Any, ...]) -> PlusTests:
    entry_point, inputs, results, reference, atol, as_sets = key
    return PlusTests(entry_point, list(inputs), None if results is None else list(results), reference, atol, as_sets)


def _calls(tests: PlusTests, submitted: bool) -> list[str]:
    """Return the source of each call. Where None alone counts, the call says whether it is that, or a truth value."""
    if tests.entry_point not in NOT_NONE:
        return tests.calls
    if submitted:
        return [
            f"(lambda out: out if out is True or out is False else out is not None)({call})" for call in tests.calls
        ]
    return [f"{call} is not None" for call in tests.calls]


def _expected(tests: PlusTests, sandbox: Sandbox, limits: Limits) -> list[Any]:
    if tests.results is not None:
        return _known(tuple(tests.results))
    calls = tuple(_calls(tests, submitted=False))
    return _of_reference(tests.entry_point, tests.reference or "", calls, cast("Hashable", sandbox), limits)


@functools.lru_cache(maxsize=512)
def _known(results: tuple[str, ...]) -> list[Any]:
    return [evaluate(parse_expression(source)) for source in results]


@functools.lru_cache(maxsize=512)
def _of_reference(name: str, code: str, calls: tuple[str, ...], sandbox: Hashable, limits: Limits) -> list[Any]:
    """Return what the reference solution returns. Raises EnvironmentFailure if that is no plain value each time."""
    room = Limits(limits.cpu_seconds, limits.wall_seconds, limits.memory_bytes, REFERENCE_BYTES)
    run = _run(cast("Sandbox", sandbox), code, "", list(calls), room)
    for call, answer in zip(calls, run.calls, strict=True):
        if answer.outcome is not CallOutcome.VALUE:
            raise EnvironmentFailure(
                f"the reference solution of {name} gives no value for {call[:80]} ({answer.text or run.failure}); the "
                f"limits of a run are {SETTING}.cpu_seconds, .wall_seconds and .memory_mb"
            )
    return [answer.value for answer in run.calls]


def _run(sandbox: Sandbox, code: str, setup: str, calls: Sequence[str], limits: Limits) -> RunResult:
    run = sandbox.call(code, setup, calls, limits).result()
    if run.failure == LOST:
        raise SandboxLost("the sandbox broke twice before the code could run, so there is no verdict on the code")
    return run


def _result(tests: PlusTests, index: int, answer: CallResult, expected: Any, failure: str | None) -> TestResult:
    source = f"{tests.calls[index]} -> {to_source(expected)}"
    wanted = cut_middle(to_text(expected), SHOWN_CHARACTERS)
    if answer.outcome is not CallOutcome.VALUE:
        error = answer.text or failure or "not reached"
        if answer.outcome is CallOutcome.UNREPRESENTABLE:
            error = f"returned no plain value that can be compared: {answer.text}"
        return TestResult(source, False, expected=wanted, error=error)
    passed = agrees(tests, answer.value, expected, tests.arguments[index])
    return TestResult(source, passed, cut_middle(to_text(answer.value), SHOWN_CHARACTERS), wanted)
