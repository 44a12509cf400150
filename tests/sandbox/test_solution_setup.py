"""What of a set-up runs beside a solution."""

from __future__ import annotations

import pytest

from leafe_verl.sandbox import default_pool, judge
from leafe_verl.sandbox.raising import split_test
from leafe_verl.sandbox.solution_setup import solution_setup

REFERENCE = "def reference(x): return x**3 - 7"


@pytest.mark.parametrize(
    ("setup", "test", "forgery"),
    [
        (REFERENCE, "assert f(9) == reference(9)", "def f(x): return reference(x)"),
        ("expected = [3, 5, 8]", "assert f(1) == expected", "def f(x): return expected"),
        ("expected = []\nexpected.append(8)", "assert f(1) == expected", "def f(x): return expected"),
    ],
)
def test_a_solution_cannot_return_what_the_set_up_expects(setup: str, test: str, forgery: str) -> None:
    verdict = judge(forgery, [test], setup, default_pool())
    assert not verdict.all_passed and verdict.failure is None


@pytest.mark.parametrize(
    ("setup", "test", "kept"),
    [
        ("tree = Node(1)\nadd(tree, 2)", "assert size(tree) == 2", "tree = Node(1)\nadd(tree, 2)"),
        ("import math\nwanted = 3.14", "assert area(1) == wanted", "import math"),
        ("def close(a, b): return abs(a - b) < 1", "assert close(f(1), 7.2)", ""),
        ("def encode(x): return x[::-1]", "assert f(encode('ab')) == encode('cd')", "def encode(x): return x[::-1]"),
        ("n = 3\nmost = [4]", "assert f(n) == most", "n = 3"),
        (
            "from collections import namedtuple\nP = namedtuple('P', 'x y')",
            "assert f(1) == P(1, 2)",
            "from collections import namedtuple\nP = namedtuple('P', 'x y')",
        ),
        ("class Box: pass", "assert isinstance(f(1), Box)", "class Box: pass"),
        ("import sys\nsys.setrecursionlimit(9999)", "assert f(1) == 2", "import sys\nsys.setrecursionlimit(9999)"),
        ("", "assert f(1) == 2", ""),
    ],
)
def test_what_the_calls_need_stays(setup: str, test: str, kept: str) -> None:
    assert solution_setup(setup, [split_test(test, setup)]) == kept
