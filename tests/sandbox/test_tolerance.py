"""How far a number may be from the expected one."""

from __future__ import annotations

from typing import Any

import pytest

from leafe_verl.sandbox import Tolerance


@pytest.mark.parametrize(
    ("came", "expected", "agrees"),
    [
        (0.3000001, 0.3, True),
        (0.31, 0.3, False),
        (1000000.5, 1000000.0, True),
        (1000002.0, 1000000.0, False),
        (3, 3.0000001, True),
        (3, 4, False),
        (True, 1.0000001, False),
        ("0.3000001", "0.3", False),
        (None, 0.3, False),
        ([0.3000001, 2], [0.3, 2], True),
        ([0.3000001, 2], (0.3, 2), False),
        ([0.3, 2], [0.3], False),
        ({"a": (0.3000001,)}, {"a": (0.3,)}, True),
        ({"b": 0.3}, {"a": 0.3}, False),
        (float("nan"), 0.3, False),
        (float("inf"), float("inf"), True),
        (10**400, 0.3, False),
    ],
)
def test_floats_agree_within_the_wider_bound(came: Any, expected: Any, agrees: bool) -> None:
    assert Tolerance(1e-6, 1e-6).agrees(came, expected) is agrees


def test_without_bounds_python_compares() -> None:
    assert Tolerance().agrees(1, True) and Tolerance().agrees([1.0], [1])
    assert not Tolerance().agrees(0.1 + 0.2, 0.3)
