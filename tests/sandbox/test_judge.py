"""How an assert is split, what counts as passed, and forgeries that must not."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from leafe_verl.environments.mbpp import MBPP, extract, judge_code
from leafe_verl.sandbox import (
    CodeVerdict,
    Files,
    Limits,
    ProgramResult,
    RunResult,
    TestResult,
    Tolerance,
    default_pool,
    judge,
    split_assert,
)
from leafe_verl.sandbox.programs import ProgramTest, judge_program
from leafe_verl.sandbox.protocol import JUDGES_WORDS, KILLED
from leafe_verl.sandbox.values import decode, to_source

QUICK = Limits(cpu_seconds=1, wall_seconds=10)


def verdict(code: str, *tests: str, setup: str = "") -> CodeVerdict:
    return judge(code, tests, setup, default_pool(), QUICK)


def only(code: str, test: str, setup: str = "") -> TestResult:
    (result,) = verdict(code, test, setup=setup).tests
    return result


# --- Splitting ---


@pytest.mark.parametrize(
    ("text", "calls", "check"),
    [
        ("assert f(1) == 2", ("f(1)",), "returned_0 == 2"),
        ("assert 2 == f(1), 'message'", ("f(1)",), "2 == returned_0"),
        ("  assert f([g(1)], k=h(2)) == 'a'\r\n", ("f([g(1)], k=h(2))",), "returned_0 == 'a'"),
        ("assert set(f(x=(1,))) == {1}", ("f(x=(1,))",), "set(returned_0) == {1}"),
        ("assert math.isclose(f(1), 2.0, rel_tol=0.1)", ("f(1)",), "math.isclose(returned_0, 2.0, rel_tol=0.1)"),
        ("assert f(1) == g(2) and not h()", ("f(1)", "g(2)", "h()"), "returned_0 == returned_1 and (not returned_2)"),
        ("assert Stack().push(1).items[0] == 1", ("Stack().push(1).items[0]",), "returned_0 == 1"),
        ("assert f(lambda x: x + 1, 2) == 3", ("f(lambda x: x + 1, 2)",), "returned_0 == 3"),
        ("assert all(x > 0 for x in f(3))", ("f(3)",), "all((x > 0 for x in returned_0))"),
        ("assert sum(10, 15) == 25", ("sum(10, 15)",), "returned_0 == 25"),
        ("assert max_of(1) is True", ("max_of(1)",), "returned_0 is True"),
        ("assert f(1) == Decimal('1')", ("f(1)",), "returned_0 == Decimal('1')"),
        ("assert isclose(f(1), sqrt(2))", ("f(1)",), "isclose(returned_0, sqrt(2))"),
        ("assert sqrt(4) == 2", ("sqrt(4)",), "returned_0 == 2"),
        ("assert f(1) == datetime(2024, 1, 1)", ("f(1)",), "returned_0 == datetime.datetime(2024, 1, 1)"),
        (
            "assert f(1) == datetime.strptime('1', '%d')",
            ("f(1)",),
            "returned_0 == datetime.datetime.strptime('1', '%d')",
        ),
        ("assert f(1) == datetime.date(2024, 1, 1)", ("f(1)",), "returned_0 == datetime.date(2024, 1, 1)"),
    ],
)
def test_calls_of_the_solution_go_to_the_sandbox_and_the_rest_stays(
    text: str, calls: tuple[str, ...], check: str
) -> None:
    split = split_assert(text)
    assert (split.calls, split.check) == (calls, check)


def test_names_that_the_set_up_defines_are_not_the_solutions() -> None:
    setup = "import numpy as np\nfrom os import path\nlimit = 3\ndef close(a, b): return a == b\nroot = Node(1)"
    assert split_assert("assert close(f(root), limit)", setup).calls == ("f(root)",)
    assert split_assert("assert np.allclose(f(1), [1])", setup).calls == ("f(1)",)
    with pytest.raises(ValueError, match="uses root outside a call of the solution"):
        split_assert("assert f(1) == root", setup)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("assert f(1 == 2", "does not parse"),
        ("f(1) == 2", "expected one assert"),
        ("assert f(1) == 2\nassert f(2) == 3", "expected one assert"),
        ("", "expected one assert"),
        ("assert 1 == 1", "calls nothing of the solution"),
        ("assert f(1) == expected", "uses expected outside"),
        ("assert all(f(x) == x for x in [1, 2])", "loop variable x"),
        ("assert " + "(" * 500 + "f(1)" + ")" * 500, "parenthes"),
    ],
)
def test_a_malformed_assert_is_refused_by_name(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as refusal:
        split_assert(text)
    assert text[:16] in str(refusal.value)


def test_a_set_up_that_does_not_parse_is_refused() -> None:
    with pytest.raises(ValueError, match="set-up 'import'"):
        split_assert("assert f(1) == 1", "import")


# --- Verdicts ---


def test_each_assert_has_its_result() -> None:
    code = "def f(x):\n    if x == 3: raise KeyError(x)\n    return [x, 2.5]"
    tests = ("assert f(1) == [1, 2.5]", "assert f(2) == [2]", "assert f(3) == []", "assert f(4)[0] > 3")
    found = verdict(code, *tests)
    assert found.tests == (
        TestResult(tests[0], True, "[1, 2.5]", "[1, 2.5]", None),
        TestResult(tests[1], False, "[2, 2.5]", "[2]", None),
        TestResult(tests[2], False, None, "[]", "line 2, in f: if x == 3: raise KeyError(x)\nKeyError: 3"),
        TestResult(tests[3], True, "4", None, None),
    )
    assert (found.passed, found.share, found.all_passed, found.failure) == (2, 0.5, False, None)


@pytest.mark.parametrize(
    ("returned", "test", "passed"),
    [
        ("True", "assert f() == 1", True),
        ("[1, 2]", "assert f() == (1, 2)", False),
        ("0.1 + 0.2", "assert f() == 0.3", False),
        ("2.0", "assert f() == 2", True),
        ("float('nan')", "assert f() == float('nan')", False),
        ("{'b': 1, 'a': [2]}", "assert f() == {'a': [2], 'b': 1}", True),
        ("None", "assert f() is None", True),
        ("None", "assert not f()", True),
        ("0", "assert f()", False),
        ("[3, 1]", "assert sorted(f()) == [1, 3]", True),
        ("35.4", "assert int(f()) == 35", True),
        ("3", "assert isinstance(f(), int) and f() in (3, 4)", True),
        ("3.14", "assert abs(f() - math.pi) < 0.01", True),
        ("(1, 'é\\ud800')", "assert f() == (1, 'é\\ud800')", True),
        ("1", "assert f() != 1", False),
        ("sys.getsizeof((1, 2))", "assert f() == sys.getsizeof((1, 2))", True),
        ("[frozenset(), set(), float('inf'), 1j, b'']", "assert repr(f()[2]) == 'inf' and len(f()) == 5", True),
    ],
)
def test_comparisons_mean_what_python_means(returned: str, test: str, passed: bool) -> None:
    result = only(f"import sys\ndef f(): return {returned}", test)
    assert (result.passed, result.error) == (passed, None)


def test_a_check_uses_the_set_ups_imports_definitions_and_literals() -> None:
    setup = "import cmath as c\nlimit = [3]\ndef near(a, b): return c.isclose(a, b)\nroot = Node(1)"
    code = "class Node:\n    def __init__(self, data): self.data = data\ndef f(node): return node.data + 2.0"
    assert only(code, "assert near(f(root), limit[0])", setup).passed
    assert not only(code, "assert near(f(root), limit[0] + 1)", setup).passed


def test_a_check_that_raises_or_hangs_is_an_error_of_its_test() -> None:
    code = "def f(x): return x"
    found = verdict(code, "assert set(f(None)) == {1}", "assert len(f('ab')) == 2", "assert [0] * f(10**12) == [0]")
    assert [test.passed for test in found.tests] == [False, True, False]
    assert found.tests[0].error == "TypeError: 'NoneType' object is not iterable"
    assert found.tests[2].error is not None and "MemoryError" in found.tests[2].error


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("def f(x) return x", "SyntaxError"),
        ("def g(x): return x", "NameError: name 'f' is not defined"),
        ("def f(x): return object()", "no plain value that can be compared: object"),
        ("def f(x):\n    while True: pass", "timeout"),
    ],
)
def test_why_nothing_could_be_compared_is_said(code: str, error: str) -> None:
    result = only(code, "assert f(1) == 1")
    assert not result.passed and result.got is None
    assert result.error is not None and error in result.error


@pytest.mark.parametrize(
    ("body", "test", "passed", "error"),
    [
        ("int('x')", "raises(ValueError, f(1))", True, None),
        ("int('x')", "raises((KeyError, ValueError), f(1))", True, None),
        ("open('/nowhere/at/all')", "raises(IOError, f(1))", True, None),
        ("class Own(ValueError): pass\n    raise Own", "raises(ValueError, f(1))", True, None),
        ("{}[0]", "raises(ValueError, f(1))", False, "KeyError: 0"),
        ("class ValueError(Exception): pass\n    raise ValueError", "raises(ValueError, f(1))", False, "ValueError"),
        ("return 1", "raises(ValueError, f(1))", False, None),
        ("return 1", "not raises(ValueError, f(1))", True, None),
        ("return object()", "not raises(ValueError, f(1))", True, None),
        ("int('x')", "not raises(ValueError, f(1))", False, None),
        ("{}[0]", "not raises(ValueError, f(1))", False, "KeyError: 0"),
        ("import os; os._exit(0)", "raises(ValueError, f(1))", False, "ended early"),
        ("import os; os._exit(0)", "not raises(ValueError, f(1))", False, "ended early"),
    ],
)
def test_whether_a_call_raises_is_decided_outside(body: str, test: str, passed: bool, error: str | None) -> None:
    result = only(f"def raises(*a): return True\ndef f(x):\n    {body}", f"assert {test}")
    assert result.passed is passed and (result.error or "").endswith(error or "") and bool(result.error) is bool(error)


def test_a_solution_may_be_called_raises() -> None:
    assert only("def raises(x, y=0): return x + y", "assert raises(1) == 1").passed
    assert only("def raises(x, y=0): return x + y", "assert raises(1, abs(2)) == 3").passed


def digits_of(number: int) -> str:
    """The decimal digits of a number that Python does not write out."""
    high, low = divmod(number, 10**4000)
    return f"{high}{low:04000d}"


def test_integers_of_any_length_are_read_computed_and_compared() -> None:
    n = digits_of(10**5000 + 7)
    tests = (
        f"assert f({n}) == {n}0",
        f"assert f({n}) == {n}1",
        f"assert {n}0 - f({n}) == 0",
        f"assert len(str(f({n}))) == 5002",
        f"assert f({n[:50]}) == {n[:50]}0",
    )
    found = verdict("def f(x): return int(str(x) + '0')", *tests)
    assert [(test.passed, test.error) for test in found.tests] == [
        (True, None), (False, None), (True, None), (True, None), (True, None)
    ]  # fmt: skip
    assert split_assert(f"assert f('{n}') == 1").calls == (f"f('{n}')",), "a text stays as it is"


def test_a_tolerance_holds_for_floats_in_literals() -> None:
    def passes(returned: str, test: str, tolerance: Tolerance) -> bool:
        return judge(f"def f(): return {returned}", [test], "", default_pool(), QUICK, tolerance).all_passed

    assert passes("[0.1 + 0.2]", "assert f() == [0.3]", Tolerance(absolute=1e-9))
    assert not passes("[0.1 + 0.2]", "assert f() == [0.3]", Tolerance())
    assert passes("1e9 + 1", "assert f() == 1e9", Tolerance(relative=1e-6))
    assert not passes("iter([0.3])", "assert f() == [0.3]", Tolerance(absolute=1))


@pytest.mark.parametrize(
    ("returned", "test"),
    [
        ("list(range(n, n + 400))", "f({n}) == {values}"),
        ("[float(i) for i in range(n, n + 400)]", "f({n}) == {values}"),
        ("list(range(n, n + 400))", "sorted(f({n})) == {values}"),
        ("list(range(n, n + 400))", "f({n}) in ({values}, None)"),
    ],
)
def test_what_the_asserts_expect_has_room_in_the_answer(returned: str, test: str) -> None:
    tests = [f"assert {test.format(n=n, values=list(range(n, n + 400)))}" for n in range(1000, 1060)]
    assert verdict(f"def f(n): return {returned}", *tests).all_passed


def test_the_room_for_answers_tells_little_of_what_is_expected() -> None:
    asked: list[int] = []

    class Asked(Recording):
        def call(self, code: str, setup: str, calls: Sequence[str], limits: Limits = QUICK, files: Files | None = None):  # type: ignore[no-untyped-def]
            asked.append(limits.output_bytes)
            return super().call(code, setup, calls, limits)

    for size in (1, 3000, 3001):
        assert judge(f"def f(): return [0] * {size}", [f"assert f() == {[0] * size}"], "", Asked(), QUICK).all_passed
    assert asked == [QUICK.output_bytes, 2**18, 2**18]


def test_long_values_are_shortened() -> None:
    result = only("def f(): return list(range(9000))", "assert f() == [0] * 2 + " + repr(list(range(500))))
    assert result.got is not None and len(result.got) <= 300 and result.got.endswith("8999]")
    assert result.expected is not None and len(result.expected) <= 300


def test_values_are_shown_alike_in_every_process() -> None:
    assert to_source({"b", "a", "c"}) == "{'a', 'b', 'c'}"
    assert to_source([(1,), frozenset(), {1: float("-inf")}, True, 2j]) == (
        "[(1,), frozenset(), {1: float('-inf')}, True, complex(0.0, 2.0)]"
    )
    assert eval(to_source(10**5000)) == 10**5000


COLLIDING = [number * (2**61 - 1) for number in range(1, 200)]
"""Integers of one hash, of which a set of thousands takes minutes."""
HUGE_ZONE = ["time", [1, 1, 1, 1, 0, ["range", [0, 10**12, 1]]]]
"""A time of which a part is a range, which is never to be written out."""


@pytest.mark.parametrize(
    "tagged",
    [
        *(1.5, {}, [], ["int"], ["int", "x"], ["nothing", 1], ["list", 3], ["set", [["list", []]]], ["int", 3]),
        *(HUGE_ZONE, ["set", COLLIDING], ["keys", COLLIDING], ["dict", [[each, 1] for each in COLLIDING]]),
    ],
)
def test_an_answer_that_stands_for_nothing_is_refused(tagged: object) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        decode(tagged)


def test_no_tests_are_refused() -> None:
    with pytest.raises(ValueError, match="no tests"):
        verdict("def f(): pass")


class Recording:
    """A sandbox that notes what it is given."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def call(
        self, code: str, setup: str, calls: Sequence[str], limits: Limits = QUICK, files: Files | None = None
    ) -> Future[RunResult]:
        self.given.append("\n".join([code, setup, *calls]))
        return default_pool().call(code, setup, calls, limits)

    def execute(self, code: str, stdin: str, limits: Limits = QUICK) -> Future[ProgramResult]:
        raise NotImplementedError

    def close(self) -> None:
        """The pool is everybody's."""


def test_the_submitted_code_runs_once_and_never_beside_an_expected_value() -> None:
    sandbox = Recording()
    tests = ["assert f(1) == 'secret_1'", "assert 'secret_2' == f(2)", "assert set(f(3)) == {'secret_3'}"]
    judge("def f(x): return str(x)  # submitted", tests, "", sandbox, QUICK)
    with_code = [given for given in sandbox.given if "submitted" in given]
    assert len(with_code) == 1 and "secret" not in with_code[0]
    assert len(sandbox.given) == 2


# --- MBPP ---

MBPP_TRAIN = Path(__file__).parents[3] / "shared" / "data" / "mbpp_train.jsonl"
ALTERED = """
_original = {name}
def {name}(*arguments, **named):
    return [_original(*arguments, **named), None]
"""


def called_function(row: dict[str, Any]) -> str:
    """The function that each assert calls; the solution defines it, so that an alteration of it is seen."""
    asserts = [*row["test_list"], *row["challenge_test_list"]]
    called = [split_assert(each, row["test_setup_code"]).names for each in asserts]
    defined = {node.name for node in ast.parse(row["code"]).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    (name,) = frozenset.intersection(*called) & defined
    return name


@pytest.mark.costly
@pytest.mark.parametrize("alteration", ["", ALTERED], ids=["as they are", "with altered values"])
def test_the_reference_solutions_of_mbpp_pass_only(alteration: str) -> None:
    if not MBPP_TRAIN.is_file():
        pytest.skip("the training half of MBPP is not part of the repository")
    rows = [json.loads(line) for line in MBPP_TRAIN.read_text(encoding="utf-8").splitlines()]

    def passes(row: dict[str, Any]) -> bool:
        answer = f"```python\n{row['code']}{alteration.format(name=called_function(row))}\n```"
        data = MBPP.task(row).data
        return judge_code(extract(answer, data).code, data, default_pool(), Limits(wall_seconds=20)).all_passed

    with ThreadPoolExecutor(2 * default_pool().workers) as threads:
        verdicts = list(threads.map(passes, rows))
    wrong = [row["task_id"] for row, passed in zip(rows, verdicts, strict=True) if passed == bool(alteration)]
    assert len(rows) == 474 and wrong == []


# --- Forgeries ---

ALWAYS_EQUAL = """
class {name}({base}):
    __eq__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __hash__ = None
    __lt__ = __gt__ = __le__ = __ge__ = __contains__ = __eq__
    __bool__ = lambda self: True
    __class__ = property(lambda self: bool)
    __repr__ = __str__ = lambda self: '4'
    __iter__ = lambda self: iter([4])
    __index__ = __int__ = lambda self: 4
    __float__ = lambda self: 4.0
def f(x): return {name}()
"""
WRITING = """
import os
for descriptor in range(3, 64):
    try: os.write(descriptor, b'{data}')
    except OSError: pass
def f(x): return True
"""
BASES = ("object", "list", "float", "int", "str", "dict")
FORGERIES = {
    **{base: ALWAYS_EQUAL.format(name="Equal", base=base) for base in BASES},
    "exit": "import os\nos._exit(0)",
    "exit in the call": "import sys\ndef f(x): sys.exit(0)",
    "exit handler": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): raise SystemExit(0)",
    "exception hook": "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\ndef f(x): raise ValueError",
    "builtins": "import builtins\nbuiltins.bool = builtins.all = builtins.eval = lambda *a: True\n"
    "builtins.isinstance = builtins.issubclass = lambda *a: True\ndef f(x): return object()",
    "json": "import json\njson.dumps = lambda *a, **k: '{\"value\": true}'\ndef f(x): return True",
    "operators": "import operator, math\noperator.eq = math.isclose = lambda *a, **k: True\ndef f(x): return 5",
    "answer": WRITING.format(data='{"defined": true}\\n{"passed": true}\\n'),
    "all passed": WRITING.format(data='{"defined": true}\\n' + '{"value": true}\\n' * 3),
    "frames": "import gc, sys\ndef f(x):\n    for o in gc.get_objects():\n"
    "        if type(o) is dict and 'request' in o: return str(o)\n"
    "    frame = sys._getframe()\n    while frame.f_back: frame = frame.f_back\n    return str(frame.f_globals)",
    "patched judge": "import sys\nfor module in list(sys.modules.values()):\n"
    "    for name in ('judge', 'evaluate', 'encode', 'describe'):\n"
    "        if hasattr(module, name): setattr(module, name, lambda *a, **k: True)\ndef f(x): return 5",
    "main": "import __main__\n__main__.encode = lambda *a: True\ndef f(x): return 5",
    "empty": "",
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_no_forgery_passes(forgery: str) -> None:
    tests = ("assert f(2) == 'expected_1'", "assert len(f(2)) == 7", "assert abs(f(2) - 77.25) < 0.1")
    found = verdict(FORGERIES[forgery], *tests)
    assert [test.source for test in found.tests if test.passed] == []


@pytest.mark.parametrize("claim", [*JUDGES_WORDS, f"{KILLED} (SIGKILL)"])
def test_no_program_speaks_in_the_words_of_the_judge(claim: str) -> None:
    line = json.dumps({"failure": claim})
    code = f"import os\nos.write(3, {line.encode()!r} + b'\\n')\nos._exit(%d)"
    found = verdict(code % 0, "assert f(1) == 1")  # a verdict, where a lost sandbox would have none
    assert not found.all_passed and not found.timed_out
    assert not judge_program(code % 1, [ProgramTest("", "1")], default_pool()).all_passed


def test_a_subclass_is_judged_by_what_its_base_holds() -> None:
    assert only(
        "class Lie(list):\n    __eq__ = lambda s, o: False\ndef f(): return Lie([1])", "assert f() == [1]"
    ).passed
