"""MBPP+ of EvalPlus (arXiv 2305.01210): the inputs of a task, and how values are compared.

A task of MBPP+ has about a hundred inputs. The rows on the hub hold what is expected for each; EvalPlus' own file holds
the reference solution instead. Names of functions with a comparison of their own are EvalPlus'
(evalplus/eval/_special_oracle.py, version 0.3.1).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from leafe_verl.environments.python_values import evaluate, parse_expression
from leafe_verl.sandbox.values import OneShot, to_source

FLOAT_TOLERANCE = 1e-6
"""Absolute tolerance of a float, or of a list of floats, where the task states none."""
RELATIVE_TOLERANCE = 1e-7
"""Relative tolerance that is added to every absolute one: numpy's default in assert_allclose."""
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


def agrees(tests: PlusTests, came: Any, expected: Any, arguments: Sequence[Any]) -> bool:
    """Return whether a plain value counts as the expected one."""
    try:
        if tests.as_sets or tests.entry_point in SETS:
            return _same_items(came, expected)
        special = SPECIAL.get(tests.entry_point)
        if came == expected or (special and special(came, arguments, tests.atol)):
            return True
        tolerance = tests.atol or (FLOAT_TOLERANCE if _is_floats(expected) else 0.0)
        return tolerance > 0 and type(came) is type(expected) and _close(came, expected, tolerance)
    except (TypeError, ValueError, ArithmeticError):  # not what can be compared, such as None or NaN with a number
        return False


def _same_items(came: Any, expected: Any) -> bool:
    wanted = set(expected)
    if isinstance(came, OneShot):  # an iterator, whose items came if it ended well
        came = came.items if came.ending is None else None
    # A range of any length takes a few bytes in an answer. Its items differ, so that their number tells enough.
    if isinstance(came, range) and len(came) != len(wanted):
        return False
    return set(came) == wanted


def _is_floats(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(each, float) for each in value)
    return isinstance(value, float)


def _close(came: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(expected, list | tuple):
        return len(came) == len(expected) and all(
            _close(one, other, tolerance) for one, other in zip(came, expected, strict=True)
        )
    near = abs(expected) < math.inf and abs(came - expected) <= tolerance + RELATIVE_TOLERANCE * abs(expected)
    return bool(came == expected or near)


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
