"""MBPP+ of EvalPlus (arXiv 2305.01210): its rows on the hub and in its own file, and how it compares values.

A task of MBPP+ has about a hundred inputs. The rows on the hub hold what is expected for each; EvalPlus' own file holds
the reference solution instead, which is run once for each process. Names of functions with a comparison of their own
are EvalPlus' (evalplus/eval/_special_oracle.py, version 0.3.1).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from leafe_verl.core.environment import EnvironmentFailure
from leafe_verl.environments.options import SETTING
from leafe_verl.environments.python_values import evaluate, parse_expression
from leafe_verl.sandbox import CodeVerdict, Limits, Sandbox, SandboxLost, TestResult, cut_middle, judge, split_assert
from leafe_verl.sandbox.judge import SHOWN_CHARACTERS
from leafe_verl.sandbox.protocol import LOST, CallOutcome, CallResult, RunResult
from leafe_verl.sandbox.values import to_source, to_text

FLOAT_TOLERANCE = 1e-6
"""Absolute tolerance of a float, or of a list of floats, where the task states none."""
RELATIVE_TOLERANCE = 1e-7
"""Relative tolerance that is added to every absolute one: numpy's default in assert_allclose."""
REFERENCE_BYTES = 16 * 2**20
"""What the reference solution may return in all. A submitted one may return four times what was expected."""
SETS = frozenset(
    ("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum",
     "intersection_array", "find_dissimilar", "Diff")
)  # fmt: skip
"""Functions whose values are compared as sets."""
NOT_NONE = frozenset(("check_str", "text_match_three", "text_starta_endb"))
"""Functions of which only counts whether they return None, as a match is no plain value."""


@dataclass(frozen=True)
class PlusTests:
    """The inputs of a task of MBPP+, and what is expected for them."""

    entry_point: str
    """Name of the function that is called."""
    inputs: list[str]
    """Source of the arguments of each call, as a list."""
    results: list[str] | None
    """Source of what is expected of each call; None where the reference solution tells it."""
    reference: str | None
    """Source of the reference solution; None where the results are known. It never enters a submitted program's run."""
    atol: float = 0.0
    """The task's absolute tolerance; 0 for FLOAT_TOLERANCE, of floats alone."""
    as_sets: bool = False
    """Whether values are compared as sets beyond the functions in SETS."""

    @classmethod
    def from_mapping(cls, fields: Any) -> PlusTests:
        """Return the tests that a task's data hold under `plus`. Raises ValueError that says what was expected."""
        try:
            tests = cls(**fields)
            known = tests.reference is not None if tests.results is None else len(tests.results) == len(tests.inputs)
            sound = known and bool(tests.inputs) and tests.entry_point.isidentifier() and tests.atol >= 0
            arguments = [evaluate(parse_expression(source)) for source in (*tests.inputs, *(tests.results or ()))]
        except (TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"plus cannot be read ({error}); expected the tests of MBPP+ as they were written"
            ) from None
        if not sound or not all(isinstance(each, list | tuple) for each in arguments[: len(tests.inputs)]):
            raise ValueError("plus holds no inputs, or not as many results; expected the tests of MBPP+")
        return tests

    def to_mapping(self) -> dict[str, Any]:
        return asdict(self)

    @functools.cached_property
    def calls(self) -> list[str]:
        """Source of each call."""
        return [f"{self.entry_point}({', '.join(map(to_source, arguments))})" for arguments in self.arguments]

    @functools.cached_property
    def arguments(self) -> list[Sequence[Any]]:
        return [evaluate(parse_expression(source)) for source in self.inputs]


def judge_plus(
    code: str, shown: Sequence[str], plus: Mapping[str, Any], setup: str, sandbox: Sandbox, limits: Limits
) -> CodeVerdict:
    """Run code on the inputs of a task of MBPP+ and compare as EvalPlus does.

    The first results are those of the shown asserts: of the inputs that they call, else of the asserts themselves.
    """
    tests = _tests(plus_key(plus))
    expected = _expected(tests, sandbox, limits)
    size = sum(len(to_source(value)) for value in expected)
    room = Limits(limits.cpu_seconds, limits.wall_seconds, limits.memory_bytes, limits.output_bytes + 4 * size)
    run = _run(sandbox, code, setup, _calls(tests, submitted=True), room)
    results = [
        _result(tests, index, answer, value, run.failure)
        for index, (answer, value) in enumerate(zip(run.calls, expected, strict=True))
    ]
    first, taken = _shown_results(code, shown, tests, results, setup, sandbox, limits)
    hidden = [result for index, result in enumerate(results) if index not in taken]
    return CodeVerdict((*first, *hidden), run.failure)


def _shown_results(
    code: str,
    shown: Sequence[str],
    tests: PlusTests,
    results: Sequence[TestResult],
    setup: str,
    sandbox: Sandbox,
    limits: Limits,
) -> tuple[list[TestResult], set[int]]:
    """Return the results of the shown asserts, and the indices of the inputs that they call."""
    places = {call: index for index, call in reversed(list(enumerate(map(_normal, tests.calls))))}
    called = {test: [places.get(_normal(call)) for call in split_assert(test, setup).calls] for test in shown}
    found = {test: indices[0] for test, indices in called.items() if len(indices) == 1 and indices[0] is not None}
    others = [test for test in shown if test not in found]
    judged = dict(zip(others, judge(code, others, setup, sandbox, limits).tests, strict=True)) if others else {}
    first = [judged[test] if test in judged else _renamed(results[found[test]], test) for test in shown]
    return first, set(found.values())


def _renamed(result: TestResult, source: str) -> TestResult:
    return TestResult(source, result.passed, result.got, result.expected, result.error)


@functools.lru_cache(maxsize=4096)
def _normal(call: str) -> str:
    import ast

    return ast.unparse(ast.parse(call.strip(), mode="eval"))


# --- Running ---


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


# --- Comparing ---


def agrees(tests: PlusTests, came: Any, expected: Any, arguments: Sequence[Any]) -> bool:
    """Return whether a plain value counts as the expected one."""
    try:
        if tests.as_sets or tests.entry_point in SETS:
            return set(came) == set(expected)
        special = SPECIAL.get(tests.entry_point)
        if came == expected or (special and special(came, arguments, tests.atol)):
            return True
        tolerance = tests.atol or (FLOAT_TOLERANCE if _is_floats(expected) else 0.0)
        return tolerance > 0 and type(came) is type(expected) and _close(came, expected, tolerance)
    except (TypeError, ValueError, OverflowError):  # not what can be compared, such as None with a number
        return False


def _is_floats(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(each, float) for each in value)
    return isinstance(value, float)


def _close(came: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(expected, list | tuple):
        return len(came) == len(expected) and all(
            _close(one, other, tolerance) for one, other in zip(came, expected, strict=True)
        )
    return bool(came == expected or abs(came - expected) <= tolerance + RELATIVE_TOLERANCE * abs(expected))


def _pyramid_surface(base: float, height: float) -> int:
    """Surface of a square pyramid whose `height` is that of its apex above the base."""
    return round(base**2 + 2 * base * math.hypot(base / 2, height))


def _digit_distance(one: int, other: int) -> int:
    """Sum of the differences of the digits of two numbers, aligned at the right."""
    width = max(len(str(one)), len(str(other)))
    pairs = zip(str(one).zfill(width), str(other).zfill(width), strict=True)
    return sum(abs(int(first) - int(second)) for first, second in pairs)


Special = Callable[[Any, Sequence[Any], float], bool]
SPECIAL: Mapping[str, Special] = {
    "are_equivalent": lambda came, arguments, atol: True,
    "sum_div": lambda came, arguments, atol: bool(came == 0),
    "surface_Area": lambda came, arguments, atol: bool(abs(came - _pyramid_surface(*arguments)) <= atol),
    "digit_distance_nums": lambda came, arguments, atol: bool(came == _digit_distance(*arguments)),
}
"""Function -> what counts beside the expected value. EvalPlus found that these tasks can be read in two ways."""
