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
        ("cases = {'in': 3, 'out': [4]}", "assert f(cases['in']) == cases['out']", "def f(x): return cases['out']"),
        ("class Wanted:\n    value = [4]", "assert f(3) == Wanted.value", "def f(x): return Wanted.value"),
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
        ("class Box:\n    side = 1", "assert f(1) == Box()", "class Box:\n    side = 1"),
        ("cases = [[1, 2], 3]", "assert f(cases[0]) == cases[1]", ""),
        ("cases = [[1], 3]\ncases[0].append(2)", "assert f(cases[0]) == 3", "cases = [[1], 3]\ncases[0].append(2)"),
        ("data = [1, 2]", "assert f(data) == sum(data)", "data = [1, 2]"),
        ("import sys\nsys.setrecursionlimit(9999)", "assert f(1) == 2", "import sys\nsys.setrecursionlimit(9999)"),
        ("", "assert f(1) == 2", ""),
    ],
)
def test_what_the_calls_need_stays(setup: str, test: str, kept: str) -> None:
    assert solution_setup(setup, [split_test(test, setup)]) == kept


def test_what_only_another_run_needs_stays_away() -> None:
    setup = "WANTED = 42\nGIVEN = 7\nn = 1"
    shown, hidden = (split_test(test, setup) for test in ("assert f(n) == 2", "assert f(GIVEN) == WANTED"))
    assert solution_setup(setup, [shown], [hidden]) == "n = 1"
    assert solution_setup(setup, [hidden], [shown]) == "GIVEN = 7"


LINKED = "class Node: pass\na = Node()\nb = Node()\na.next = b"


@pytest.mark.parametrize(
    ("setup", "test", "other", "kept"),
    [
        (LINKED, "assert f(a) == 2", "assert f(b) == 1", LINKED),
        (LINKED, "assert f(b) == 1", "assert f(a) == 2", "class Node:\n    pass\nb = Node()"),
        ("a = [1]\nb = [2]\njoin(a, b)", "assert f(a) == 2", "assert f(b) == 1", "a = [1]\nb = [2]\njoin(a, b)"),
        ("a = [1]\nb = [2]\nfill(b, a)", "assert f(a) == 2", "assert f(a) == b", "a = [1]"),
    ],
)
def test_what_changes_an_argument_stays(setup: str, test: str, other: str, kept: str) -> None:
    assert solution_setup(setup, [split_test(test, setup)], [split_test(other, setup)]) == kept
