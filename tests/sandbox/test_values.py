"""What tests ask of a returned value beyond its equality: judged as Python judges it, with nothing of a program."""

from __future__ import annotations

from typing import Any

import pytest

from leafe_verl.sandbox import Limits, default_pool, encoding, judge
from leafe_verl.sandbox.encoding import GOES_ON, OUT_OF_TIME
from leafe_verl.sandbox.values import decode, to_source, to_text
from sandbox.forgeries import AGREEING

QUICK = Limits(cpu_seconds=4, wall_seconds=20)
PRELUDE = """
import array, collections, datetime, itertools, re, types
from collections import Counter, OrderedDict, deque
from decimal import Decimal
from fractions import Fraction
"""

RETURNED = {
    "a generator": "(x * x for x in range(3))",
    "a map": "map(int, '120')",
    "an empty filter": "filter(None, [])",
    "a zip": "zip('ab', [1, 2])",
    "an enumerate": "enumerate('ab', 1)",
    "a reversed": "reversed([1, 2, 3])",
    "an iterator of a list": "iter([3, 1, 2])",
    "an iterator of a set": "iter({7})",
    "a chain": "itertools.chain([1], (0,))",
    "permutations": "itertools.permutations('ab')",
    "keys": "{'b': 1, 'a': 2}.keys()",
    "values": "{'b': 1, 'a': 2}.values()",
    "items": "{'b': [1], 'a': 2}.items()",
    "no keys": "{}.keys()",
    "ordered keys": "OrderedDict(a=1).keys()",
    "a range": "range(1, 9, 3)",
    "an empty range": "range(0)",
    "a match": "re.match('a.', 'annie')",
    "no match": "re.match('b', 'annie')",
    "a decimal": "Decimal('1.50')",
    "no decimal": "Decimal(0)",
    "a decimal that is no number": "Decimal('NaN')",
    "a fraction": "Fraction(6, 4)",
    "a deque": "deque([1, 2, 3], 2)",
    "an empty deque": "deque()",
    "a counter": "Counter('abca')",
    "an ordered dict": "OrderedDict([('b', 1), ('a', 2)])",
    "a default dict": "collections.defaultdict(list, {1: [2]})",
    "a date": "datetime.date(2024, 2, 29)",
    "a time": "datetime.time(12, 30)",
    "a datetime": "datetime.datetime(2024, 2, 29, 1, 2, 3, 4, datetime.timezone.utc)",
    "a timedelta": "datetime.timedelta(days=-1, hours=2)",
    "no timedelta": "datetime.timedelta(0)",
    "an array": "array.array('i', [1, 2])",
    "a bytearray": "bytearray(b'ab')",
    "a class": "int",
    "nested": "[range(2), (Decimal('1'), deque([1]))]",
}
ASKED = (
    "assert f()",
    "assert not f()",
    "assert f() is None",
    "assert f() is not None",
    "assert f() == None",
    "assert f() is True",
    "assert bool(f()) == True",
    "assert len(f()) == 2",
    "assert list(f()) == [0, 1, 4]",
    "assert list(f()) == [1, 2, 0]",
    "assert sorted(f()) == [1, 2, 3]",
    "assert set(f()) == {'a', 'b'}",
    "assert tuple(f()) == (('a', 1), ('b', 2))",
    "assert 1 in f()",
    "assert 7 not in f()",
    "assert ('a', 2) in f()",
    "assert sum(f()) == 3",
    "assert f() == {'a', 'b'}",
    "assert f() == [1, 2]",
    "assert f() == range(1, 8, 3)",
    "assert f() == 1.5",
    "assert f() == Decimal('1.5')",
    "assert Fraction(3, 2) == f()",
    "assert f() == deque([2, 3])",
    "assert f() == {'a': 2, 'b': 1, 'c': 1}",
    "assert f() == OrderedDict([('a', 2), ('b', 1)])",
    "assert f() == date(2024, 2, 29)",
    "assert f() > datetime.date(2024, 2, 28)",
    "assert f().year == 2024",
    "assert f() == datetime(2024, 2, 29, 1, 2, 3, 4, timezone.utc)",
    "assert f() < timedelta(0)",
    "assert isinstance(f(), (map, zip, filter, range))",
    "assert isinstance(f(), int)",
    "assert f() is int",
    "assert f() == b'ab'",
    "assert f() in ({}.keys(), deque())",
    "assert f() != 'x'",
    "assert isclose(f(), 1.5)",
    "assert f()[1] == 4",
    "assert next(f()) == 0",
    "assert max(f(), default=5) == 5",
    "assert all(f())",
    "assert [*f()] == []",
    "assert f() == f()",
)


def pythons_verdict(returned: str, test: str) -> bool:
    """Whether an assert holds as Python runs it, with the names that it may use without an import."""
    solution: dict[str, Any] = {}
    exec(f"{PRELUDE}def f(): return {returned}", solution)
    names = {"f": solution["f"]}
    imports = "from datetime import datetime" if " datetime(" in test else "import datetime"
    exec(f"from datetime import date, timedelta, timezone\nfrom math import isclose\n{PRELUDE}{imports}", names)
    try:
        exec(test, names)
    except Exception:
        return False
    return True


@pytest.mark.parametrize("name", RETURNED)
def test_every_question_is_answered_as_python_answers_it(name: str) -> None:
    verdict = judge(f"{PRELUDE}def f(): return {RETURNED[name]}", ASKED, "", default_pool(), QUICK)
    judged = {test.source: test.passed for test in verdict.tests}
    assert judged == {test: pythons_verdict(RETURNED[name], test) for test in ASKED}


@pytest.mark.parametrize("name", RETURNED)
def test_a_value_comes_back_and_its_source_makes_the_same(name: str) -> None:
    names: dict[str, Any] = {}
    exec(PRELUDE, names)
    value, copy = (eval(RETURNED[name], names) for _ in range(2))
    decoded = decode(encoding.encode(value, [2**16]))
    made = eval(to_source(decoded))
    if hasattr(copy, "__next__"):
        assert list(made) == list(copy) and bool(made)
    elif name == "a match":
        assert made and to_text(decoded) == "<re.Match of 'an'>"
    else:
        assert made == copy or name == "values" or value != value
        assert type(made) is type(copy) or name in ("ordered keys", "a default dict")


def test_long_integers_within_other_values_have_a_source() -> None:
    names: dict[str, Any] = {}
    exec(PRELUDE, names)
    long = 10**5000
    for value in (range(long, long + 5), names["Fraction"](1, long), [long], {long: -long}.items()):
        assert eval(to_source(decode(encoding.encode(value, [2**16])))) == value


def only(code: str, test: str) -> tuple[bool, str | None]:
    (result,) = judge(PRELUDE + code, [test], "", default_pool(), QUICK).tests
    return result.passed, result.error


def test_an_iterator_without_end_is_judged_by_its_beginning() -> None:
    endless = "def f():\n    n = 0\n    while True:\n        yield n\n        n += 1"
    assert only(endless, "assert next(f()) == 0") == (True, None)
    assert only(endless, "assert list(itertools.islice(f(), 5)) == [0, 1, 2, 3, 4]") == (True, None)
    assert only(endless, "assert 100 in f()") == (True, None)
    passed, error = only(endless, "assert sorted(f()) == []")
    assert not passed and error is not None and GOES_ON in error


def test_a_huge_range_is_not_written_out() -> None:
    code = "def f(): return range(10**9)"
    assert only(code, "assert f() and 10**8 in f() and len(f()) == 10**9") == (True, None)
    assert only(code, "assert f() == list([1])") == (False, None)


def test_an_iterator_that_raises_does_so_where_it_is_read() -> None:
    code = "def f():\n    yield 1\n    raise KeyError('x')"
    assert only(code, "assert f()") == (True, None)
    assert only(code, "assert next(f()) == 1") == (True, None)
    passed, error = only(code, "assert list(f()) == [1]")
    assert not passed and error is not None and "KeyError" in error


def test_an_iterator_that_goes_on_slowly_is_cut_off_before_the_limit_of_time() -> None:
    code = "def f():\n    n = 0\n    while True:\n        yield n\n        n += 1\n        if n > 3: sum(range(10**7))"
    limits = Limits(cpu_seconds=1, wall_seconds=20)
    assert judge(code, ["assert next(f()) == 0", "assert f()"], "", default_pool(), limits).all_passed
    verdict = judge(code, ["assert len(list(f())) == 9"], "", default_pool(), limits)
    assert verdict.timed_out and f"the iterator {OUT_OF_TIME}" in str(verdict.tests[0].error)


def test_an_endless_iterator_leaves_room_for_the_other_answers() -> None:
    tests = ["assert next(f(0)) == 1", "assert f(1) == 'x' * 9000", "assert 1 in f(0)"]
    code = "import itertools\ndef f(n): return 'x' * 9000 if n else itertools.repeat(1)"
    assert judge(code, tests, "", default_pool(), QUICK).all_passed


def test_any_value_is_something_else_than_none() -> None:
    assert only("class Node: pass\ndef f(): return Node()", "assert f() is not None") == (True, None)
    assert only("class Node: pass\ndef f(): return Node()", "assert f() is None") == (False, None)
    assert only("def f(): return 'x' * 10**6", "assert f() is not None") == (True, None)
    assert only("def f(): pass", "assert f() is not None") == (False, None)


@pytest.mark.parametrize("test", ["assert f()", "assert not f()", "assert 1 in f()", "assert len(f()) == 1",
                                  "assert list(f()) == [1]", "assert f() == None", "assert f() != 5"])  # fmt: skip
@pytest.mark.parametrize("base", ["object", "re.Match", "list_iterator"])
def test_nothing_that_a_program_defines_is_asked(test: str, base: str) -> None:
    if base == "object":
        code = AGREEING.format(base=base).replace("f(x)", "f()")
    else:
        code = (
            AGREEING.format(base="object").replace("f(x)", "f()").replace("class Yes", f"class {base.split('.')[-1]}")
        )
        code = code.replace("return Yes()", f"return {base.split('.')[-1]}()")
    passed, error = only(code, test)
    assert not passed and error is not None and "no plain value" in error


@pytest.mark.parametrize(
    "tagged",
    [
        ["Fraction", ["1e999999999", 1]],
        ["Fraction", [1, 0]],
        ["deque", [["range", [0, 10**12, 1]], None]],
        ["array", ["d", ["range", [0, 10**12, 1]]]],
        ["bytearray", [10**12]],
        ["dict", [["range", [0, 10**12, 1]], 1]],
        ["items", [["a"]]],
        ["Decimal", [5]],
        ["Decimal", ["sNaN"]],
        ["Decimal", ["x"]],
        ["date", [0, 0, 0]],
        ["timezone", [3]],
        ["type", ["open"]],
        ["range", [1.5]],
        ["iterator", ["exec", [], None]],
        ["iterator", ["iterator", [], 3]],
        ["Match", []],
    ],
)
def test_parts_that_make_no_value_or_a_huge_one_are_refused(tagged: object) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, ArithmeticError)):
        decode(tagged)
