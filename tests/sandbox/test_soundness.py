"""Asserts that a solution would decide by itself are refused, and so are those that none passes."""

from __future__ import annotations

import pytest

from leafe_verl.environments.mbpp import MBPP, extract
from leafe_verl.sandbox.soundness import refuse_unsound

SETUP = """
import numpy as np
def close(a, b): return abs(a - b) < 0.1
data = [3, 1, 2]
size = 3
root = Node(1)
"""
NUMPY = "calls np.allclose, and nothing defines np"


@pytest.mark.parametrize(
    ("test", "problem"),
    [
        ("assert np.allclose(f(1), [1.0, 2.0])", NUMPY),
        ("assert not np.linalg.norm(f(1)) > 2", "calls np.linalg, and nothing defines np"),
        ("assert f(np.array([1])) == 2", "calls np.array"),
        ("assert textwrap.dedent(f(1)) == 'x'", "calls textwrap.dedent"),
        ("assert f(1) == pytest.approx(3.0)", "calls pytest.approx.*math.isclose"),
        ("assert unittest.TestCase().assertEqual(f(1), 2) is None", "calls unittest.TestCase"),
        ("assert f(3) == reference(3)", "compares what f and reference say, and nothing defines any of them"),
        ("assert almost_equal(f(1), 7.25)", r"only asks whether almost_equal says so of f\(1\)"),
        ("assert almost_equal(expected=7.25, came=f(1))", "only asks whether almost_equal"),
        ("assert not differ(f(1), 2) and close(f(2), 4) is True", "only asks whether differ"),
        ("assert almost_equal(Solution().f(1), 2) == True", "only asks whether almost_equal"),
    ],
)
def test_an_assert_that_the_solution_would_decide_is_refused(test: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        refuse_unsound(test)
    with pytest.raises(ValueError, match=problem):
        MBPP.task({"task_id": 1, "text": "t", "test_list": [test], "test_setup_code": ""})


@pytest.mark.parametrize(
    "test",
    [
        "assert np.allclose(f(1), [1.0, 2.0])",
        "assert close(f(1), 7.25)",
        "assert decode(encode('ab')) == 'ab'",
        "assert f(g(1)) == f(g(2))",
        "assert Solution().f(1)",
        "assert Solution.f(1) == 2",
        "assert is_tree(Node(1))",
        "assert root.height() == 3",
        "assert is_prime(7)",
        "assert not f('a.b'.split('.'))",
        "assert math.isclose(f(1), 3.0)",
        "assert f(lambda s: s.upper()) == 2",
        "assert f(size) == size",
        "assert f(data) == [1, 2, 3] and size == 3",
        "assert f(data) == sorted(data) and f(data) != data",
    ],
)
def test_an_assert_that_something_else_decides_is_taken(test: str) -> None:
    refuse_unsound(test, SETUP)


@pytest.mark.parametrize("test", ["assert f(data) is None and data == [1, 2, 3]", "assert not (f(data) or data[0])"])
def test_a_value_of_the_set_up_is_not_asked_for_what_a_call_made_of_it(test: str) -> None:
    with pytest.raises(ValueError, match="asks for data of the set-up, which a call may have changed"):
        refuse_unsound(test, SETUP)


def test_an_assert_that_a_call_raises_is_decided_outside():
    row = {"task_id": 1, "text": "t", "test_list": ['assert raises(ValueError, f("x"))'], "test_setup_code": ""}
    answer = "```python\ndef f(x): int(x)\n```\n```python\ndef g(): return 1\n```"
    assert "def f(x): int(x)" in extract(answer, MBPP.task(row).data).code
