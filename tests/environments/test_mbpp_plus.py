"""MBPP+ in both of its published forms: what is read, how values are compared, and what is refused by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from leafe_verl.core.environment import EnvironmentFailure
from leafe_verl.environments.mbpp import MBPP
from leafe_verl.environments.mbpp_plus import PlusTests, agrees
from leafe_verl.environments.mbpp_plus_rows import read_evalplus_tests
from leafe_verl.environments.rows import build_verl_row
from leafe_verl.sandbox import CodeVerdict
from leafe_verl.sandbox.values import OneShot
from leafe_verl.task_files import read_tasks

ASSERTION = """
def is_floats(x) -> bool:
    # check if it is float; List[float]; Tuple[float]
    if isinstance(x, float):
        return True
    if isinstance(x, (list, tuple)):
        return all(isinstance(i, float) for i in x)
    if isinstance(x, np.ndarray):
        return x.dtype == np.float64 or x.dtype == np.float32
    return False


def assertion(out, exp, atol):
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    {change}
    if out != exp and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert out == exp, f"out: {{out}}, exp: {{exp}}"
"""
SETS = "out = set(out); exp = set(exp)"


def hub_test(name: str, inputs: str, results: str | None, atol: str = "0", change: str = "pass") -> str:
    """Return `test` of a row on the hub; without results the row checks against a reference."""
    head = "import numpy as np\nfrom math import inf\n" + ASSERTION.format(change=change) + f"\n\ninputs = {inputs}\n"
    if results is None:
        loop = f"for i, inp in enumerate(inputs):\n    assertion({name}(*inp), ref_func(*inp), {atol})\n"
        return f"{head}def ref_func(x):\n    return x\n{loop}"
    loop = f"for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion({name}(*inp), exp, {atol})\n"
    return f"{head}results = {results}\n{loop}"


HUB_ROW = {
    "task_id": 2,
    "code": "def similar_elements(test_tup1, test_tup2):\n  return tuple(set(test_tup1) & set(test_tup2))\n",
    "prompt": "Write a function to find the shared elements from the given two lists.",
    "source_file": "Benchmark Questions Verification V2.ipynb",
    "test_imports": [],
    "test_list": [
        "assert set(similar_elements((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))",
        "assert set(similar_elements((1, 2, 3, 4),(5, 4, 3, 7))) == set((3, 4))",
    ],
    "test": hub_test(
        "similar_elements",
        "[[(3, 4, 5, 6), (5, 7, 4, 10)], [(1, 2, 3, 4), (5, 4, 3, 7)], [(), ()], [(True, -inf), (-inf, 'kx', 1e3)]]",
        "[(4, 5), (3, 4), (), (-inf,)]",
        change=SETS,
    ),
}
EVALPLUS_ROW = {
    "task_id": "Mbpp/2",
    "prompt": '"""\nWrite a function to find the shared elements from the given two lists.\n'
    'assert set(similar_elements((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))\n"""\n',
    "entry_point": "similar_elements",
    "canonical_solution": "\ndef similar_elements(test_tup1, test_tup2):\n"
    "  return tuple(set(test_tup1) & set(test_tup2))\n",
    "base_input": [[[3, 4, 5, 6], [5, 7, 4, 10]], [[1, 2, 3, 4], [5, 4, 3, 7]]],
    "atol": 0,
    "plus_input": [[[], []], [[1, 2, 2], [2]], [[3, 4, 5, 6], [5, 7, 4, 10]]],
    "contract": '\n  assert isinstance(test_tup1, tuple), "invalid inputs" # $_CONTRACT_$\n',
    "assertion": "\nassert set(similar_elements((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))\n"
    "assert set(similar_elements((1, 2, 3, 4),(5, 4, 3, 7))) == set((3, 4))\n",
}


def verdict(row: Mapping[str, Any], code: str) -> CodeVerdict:
    environment = MBPP()
    task = MBPP.task(row)
    environment.reset(task, 0)
    step = environment.step(f"```python\n{code}\n```")
    return SimpleNamespace(  # type: ignore[return-value]
        passed=step.info["passed"], total=step.info["total"], success=step.info["success"], text=step.observation
    )


def hub_row(name: str, inputs: str, results: str | None, shown: str, code: str = "", **options: str) -> dict[str, Any]:
    return {**HUB_ROW, "code": code, "test_list": [shown], "test": hub_test(name, inputs, results, **options)}


RIGHT = HUB_ROW["code"]
IN_ANOTHER_ORDER = "def similar_elements(a, b):\n    return sorted(set(a) & set(b), key=str, reverse=True)"
ALWAYS_FIRST = "def similar_elements(a, b):\n    return (4, 5)"


# --- Both forms ---


@pytest.mark.parametrize(("row", "total"), [(HUB_ROW, 4), (EVALPLUS_ROW, 4)])
def test_both_forms_are_played(row: dict[str, Any], total: int) -> None:
    task = MBPP.task(row)
    assert task.instruction == "Write a function to find the shared elements from the given two lists."
    assert task.key == str(row["task_id"]) and len(task.data["test_list"]) == 2
    assert MBPP.build_request(task).count("assert set(similar_elements(") == 2
    for code in (str(RIGHT), IN_ANOTHER_ORDER):
        found = verdict(row, code)
        assert (found.passed, found.total, found.success) == (total, total, True)
    found = verdict(row, ALWAYS_FIRST)
    assert (found.passed, found.total) == (1, total)
    assert "1 of 2 shown tests passes. This one fails:\nassert set(similar_elements((1, 2, 3, 4)" in found.text
    assert "It returned (4, 5); expected (3, 4)." in found.text
    only_shown = "def similar_elements(a, b):\n    return (4, 5) if 6 in a else (3, 4)"
    assert f"All shown tests pass, but {total - 2} of {total - 2} hidden tests fail." in verdict(row, only_shown).text


@pytest.mark.parametrize("row", [HUB_ROW, EVALPLUS_ROW])
def test_verls_rows_carry_the_tests(row: dict[str, Any]) -> None:
    task = MBPP.task(row)
    assert MBPP.task(json.loads(json.dumps(build_verl_row(task, "test", 0)))) == task


def test_the_hubs_data_set_is_a_task_source(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    strange = {**HUB_ROW, "task_id": 3, "test": str(HUB_ROW["test"]).replace("np.allclose", "np.nearly")}

    def load_dataset(name: str, configuration: str, *, split: str) -> Any:
        assert (name, configuration, split) == ("evalplus/mbppplus", "default", "test")
        return SimpleNamespace(column_names=list(HUB_ROW), remove_columns=lambda names: [HUB_ROW, strange])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    (task,) = read_tasks("hub:evalplus/mbppplus/default/test", "mbpp")
    assert task.key == "2" and "assertion calls nearly, a special oracle that is not supported" in caplog.text


def test_evalplus_own_file_is_a_task_source(tmp_path: Any) -> None:
    path = tmp_path / "MbppPlus-v0.2.0.jsonl"
    path.write_text(json.dumps(EVALPLUS_ROW) + "\n")
    (task,) = read_tasks(str(path), "mbpp")
    assert task.data["plus"]["inputs"] == [
        "[(3, 4, 5, 6), (5, 7, 4, 10)]", "[(1, 2, 3, 4), (5, 4, 3, 7)]", "[(), ()]", "[(1, 2, 2), (2,)]",
    ]  # fmt: skip


# --- Values ---


@pytest.mark.parametrize(
    ("number", "raw", "made"),
    [
        (2, [[1, 2], [3]], "[(1, 2), (3,)]"),
        (63, [[[1, 2], [3, 4]]], "[[(1, 2), (3, 4)]]"),
        (75, [[[6, 24], [7, 9]], 6], "[[(6, 24), (7, 9)], 6]"),
        (106, [[5, 6], [9, 10]], "[[5, 6], (9, 10)]"),
        (115, [[[1, 2], []]], "[[{1, 2}, {}]]"),
        (124, ["0.0", "(1+2j)"], "[0.0, complex(1.0, 2.0)]"),
        (252, ["1j"], "[complex(0.0, 1.0)]"),
        (250, [[10, 8], 4], "[(10, 8), 4]"),
        (259, [[[1, 3]], [[6, 7]]], "[((1, 3),), ((6, 7),)]"),
        (278, [[1, 5, [4, 6]]], "[(1, 5, (4, 6))]"),
        (307, [[[1]], 0, 50], "[([1],), 0, 50]"),
        (722, [{"a": [6.2, 70]}, 6.0, 70], "[{'a': (6.2, 70)}, 6.0, 70]"),
        (580, [[4, [7, [6]], 3]], "[(4, (7, (6,)), 3)]"),
        (4, [[25, [35]], 3], "[[25, [35]], 3]"),
    ],
)
def test_inputs_of_evalplus_file_get_the_types_that_json_lacks(number: int, raw: list[Any], made: str) -> None:
    tests = read_evalplus_tests({**EVALPLUS_ROW, "task_id": f"Mbpp/{number}", "base_input": [raw], "plus_input": []})
    assert tests.inputs == [made]


def compared(came: Any, expected: Any, name: str = "f", atol: float = 0.0, arguments: Sequence[Any] = ()) -> bool:
    return agrees(PlusTests(name, ["[]"], ["0"], None, atol), came, expected, arguments)


@pytest.mark.parametrize(
    ("came", "expected", "atol", "agree"),
    [
        (0.1 + 0.2, 0.3, 0.0, True),
        (1.000001, 1.0, 0.0, True),
        (1.00001, 1.0, 0.0, False),
        (1.00001, 1.0, 1e-4, True),
        (10_000_000.9, 10_000_000.0, 0.0, True),
        ([1.0, 2.0000001], [1.0, 2.0], 0.0, True),
        ((1.0, 2.0000001), [1.0, 2.0], 0.0, False),
        ([1.0], [1.0, 2.0], 0.0, False),
        ([1, 2.0000001], [1, 2.0], 0.0, False),
        ([1, 2.0000001], [1, 2.0], 1e-6, True),
        ([[1.0000001]], [[1.0]], 1e-6, True),
        (4, 4.0, 0.0, True),
        (4, 4.0000001, 0.0, False),
        (5, 6, 0.0, False),
        (None, 1.0, 0.0, False),
        ("1.0", 1.0, 1e-3, False),
        (float("inf"), float("inf"), 0.0, True),
        (float("nan"), 1.0, 0.0, False),
        (1e400, 1e308, 0.0, False),
        (0.0, float("inf"), 0.0, False),
        (float("-inf"), float("inf"), 0.0, False),
        ([0.0], [float("inf")], 1e-6, False),
        ((), (), 0.0, True),
    ],
)
def test_floats_have_the_tolerance_of_the_task(came: Any, expected: Any, atol: float, agree: bool) -> None:
    assert compared(came, expected, atol=atol) is agree


@pytest.mark.parametrize(
    ("name", "came", "expected", "arguments", "agree"),
    [
        ("Diff", [2, 1, 1], (1, 2), (), True),
        ("Diff", [2, 1], (1, 3), (), False),
        ("Diff", [[1]], [1], (), False),
        ("Diff", OneShot("filter", [2, 1], None), (1, 2), (), True),
        ("Diff", OneShot("filter", [2, 1], "it raised"), (1, 2), (), False),
        ("extract_singly", None, [1], (), False),
        ("extract_singly", range(1, 3), [2, 1], (), True),
        ("extract_singly", range(10**12), [1], (), False),
        ("extract_singly", range(2**70), [1], (), False),
        ("surface_Area", Decimal("NaN"), 33, (3, 4), False),
        ("surface_Area", Decimal("1E+999999999"), 33, (3, 4), False),
        ("are_equivalent", False, True, (36, 57), True),
        ("sum_div", 0, 7, (8,), True),
        ("sum_div", 1, 7, (8,), False),
        ("surface_Area", 33, 33, (3, 4), True),
        ("surface_Area", 35, 33, (3, 4), True),  # the height above the base: 9 + 6 * sqrt(2.25 + 16)
        ("surface_Area", 34, 33, (3, 4), False),
        ("digit_distance_nums", 1, 1, (1, 2), True),
        ("digit_distance_nums", 9, 1, (100, 901 - 1), False),
        ("digit_distance_nums", 8, 1, (100, 900), True),
        ("digit_distance_nums", "8", 1, (100, 900), False),
        ("check_str", True, True, (), True),
        ("check_str", False, True, (), False),
    ],
)
def test_special_oracles(name: str, came: Any, expected: Any, arguments: Sequence[Any], agree: bool) -> None:
    assert compared(came, expected, name, arguments=arguments) is agree


TWO_ANSWERS = """
import math
def _{name}(one, other):
    return {second}

def assertion(out, exp_0, exp_1, atol):
    assert {comparison}

inputs = {inputs}
results = {results}
for i, (inp, exp) in enumerate(zip(inputs, results)):
    assertion({name}(*inp), exp, _{name}(*inp), 0)
"""
"""The program of a task that can be read in two ways, as EvalPlus' tools/mbpp/to_original_fmt.py lays it out."""
SURFACE = TWO_ANSWERS.format(
    name="surface_Area", second="round(one**2)", inputs="[[3, 4], [1, 2]]", results="[33, 5]",
    comparison="abs(out - exp_0) <= atol or abs(out - exp_1) <= atol",
)  # fmt: skip
DIGITS = TWO_ANSWERS.format(
    name="digit_distance_nums", second="abs(one - other)", inputs="[[1, 2], [100, 9]]", results="[1, 10]",
    comparison="out == exp_0 or out == exp_1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("test", "shown", "right", "wrong"),
    [
        (SURFACE, "assert surface_Area(3, 4) == 33", "2 * a * b + a * a", "2 * a * b"),
        (SURFACE, "assert surface_Area(3, 4) == 33",
         "33 if a == 3 else round(a * a + 2 * a * math.hypot(a / 2, b))", "33"),
        (DIGITS, "assert digit_distance_nums(1, 2) == 1", "sum(abs(int(x) - int(y)) for x, y in "
         "zip(str(a).zfill(3), str(b).zfill(3)))", "abs(a - b)"),
    ],
)  # fmt: skip
def test_a_row_of_the_hub_with_two_right_answers_takes_either(test: str, shown: str, right: str, wrong: str) -> None:
    row = {**HUB_ROW, "test_list": [shown], "test": test}
    name = MBPP.task(row).data["plus"]["entry_point"]
    for expression, passes in ((right, True), (wrong, False)):
        assert verdict(row, f"import math\ndef {name}(a, b):\n    return {expression}").success is passes


# --- Verdicts ---


def test_a_match_and_none_are_told_apart_where_evalplus_does() -> None:
    row = hub_row("check_str", "[['annie'], ['dawood']]", "[True, False]", "assert check_str('annie')")
    match = "import re\ndef check_str(text):\n    return re.match('^[aeiou]', text)"
    assert verdict(row, match).success
    assert verdict(row, "def check_str(text):\n    return text[0] in 'aeiou'").success
    assert not verdict(row, "def check_str(text):\n    return 0").success, "0 is not None"
    forged = (
        "isinstance = lambda *a: True\nclass E:\n    def __eq__(self, o): return True\ndef check_str(t): return E()"
    )
    assert verdict(row, forged).passed <= 1, "what is not None is so for both inputs"


def test_the_hubs_comparison_with_none_asserts_nothing_and_is_read_by_the_functions_name() -> None:
    """The published program of these three tasks computes `exact_match` and forgets to assert it."""
    program = (
        "def assertion(out, exp, atol):\n    if isinstance(out, bool):\n        exact_match = out == exp\n"
        "    else:\n        exact_match = exp == (out is not None)\n\ninputs = [['annie'], ['dawood']]\n"
        "results = [True, False]\nfor i, (inp, exp) in enumerate(zip(inputs, results)):\n"
        "    assertion(check_str(*inp), exp, 0)\n"
    )
    row = {**HUB_ROW, "test_list": ["assert check_str('annie')"], "test": program}
    match = "import re\ndef check_str(text):\n    return re.match('^[aeiou]', text)"
    assert verdict(row, match).success
    assert not verdict(row, "def check_str(text):\n    return True").success


def test_a_float_in_a_shown_assert_has_the_tolerance_too() -> None:
    shown = "assert volume(10) == 4188.790204786391"
    row = hub_row("volume", "[[10], [0.1]]", "[4188.790204786391, 0.0041887902047863905]", shown)
    code = "import math\ndef volume(r):\n    return r ** 3 * math.pi / 3 * 4"
    assert verdict(row, code).success
    assert not verdict(row, code.replace("4", "3.999")).success


def test_an_assert_that_calls_none_of_the_inputs_is_judged_itself() -> None:
    row = hub_row("double", "[[2], [3]]", "[4, 6]", "assert double(21) == 42")
    found = verdict(row, "def double(x):\n    return 2 * x")
    assert (found.passed, found.total) == (3, 3)
    found = verdict(row, "def double(x):\n    return {2: 4, 3: 6}[x]")
    assert (found.passed, found.total) == (2, 3) and "KeyError" in found.text


COLORS = "from itertools import combinations_with_replacement\ndef combinations_colors(l, n):\n    return list(combinations_with_replacement(l, n))"  # noqa: E501


def test_a_row_that_checks_against_the_reference_runs_it_apart() -> None:
    row = hub_row(
        "combinations_colors",
        "[[['R', 'G'], 1], [['R', 'G'], 2]]",
        None,
        "assert combinations_colors(['R', 'G'], 1) == [('R',), ('G',)]",
        COLORS,
    )
    assert verdict(row, COLORS).success
    assert not verdict(row, COLORS.replace("n))", "n))[:2]")).success
    for name in ("ref_func", "combinations_colors"):
        forged = f"def combinations_colors(l, n):\n    import solution\n    return vars(solution)['{name}'](l, n)"
        assert verdict(row, forged).passed == 0, "the reference is not in the run of what is submitted"


def test_large_values_have_room() -> None:
    inputs = [[100], [300]]
    row = hub_row(
        "numbers", repr(inputs), None, "assert numbers(1) == [0]", "def numbers(n):\n    return list(range(n)) * 100"
    )
    code = "def numbers(n):\n    return [0] if n == 1 else [i for _ in range(100) for i in range(n)]"
    assert verdict(row, code).success


def test_large_values_of_floats_have_room() -> None:
    results = [[0.0], [float(i % 9) for i in range(6000)]]
    row = hub_row("numbers", "[[1], [6000]]", repr(results), "assert numbers(1) == [0.0]")
    assert verdict(row, "def numbers(n):\n    return [float(i % 9) for i in range(n)]").success


def test_a_reference_without_values_is_a_failure_of_the_environment() -> None:
    row = hub_row("f", "[[1]]", None, "assert f(1) == 1", "def f(x):\n    return lambda: x")
    with pytest.raises(EnvironmentFailure, match=r"the reference solution of f gives no value for f\(1\)"):
        verdict(row, "def f(x):\n    return x")


@pytest.mark.parametrize(
    "code",
    [
        "class E(tuple):\n    def __eq__(self, o): return True\n    __hash__ = tuple.__hash__\n"
        "def similar_elements(a, b): return E()",
        "class E:\n    def __iter__(self): return iter((4, 5))\ndef similar_elements(a, b): return E()",
        "def similar_elements(a, b):\n    import sys\n    sys.exit(0)",
        "import builtins\nbuiltins.set = lambda x: 0\ndef similar_elements(a, b): return (9,)",
    ],
)
def test_forgeries_stay_failures(code: str) -> None:
    for row in (HUB_ROW, EVALPLUS_ROW):
        assert not verdict(row, code).success


def test_a_program_finds_no_hidden_input_in_the_run_that_is_told() -> None:
    code = (
        "import sys\ndef similar_elements(a, b):\n    frame, seen = sys._getframe(), ''\n    while frame:\n"
        "        seen, frame = seen + str(frame.f_locals), frame.f_back\n"
        "    raise ValueError('the hidden input is ' + ('known' if 'k' + 'x' in seen else 'unknown'))"
    )
    found = verdict(HUB_ROW, code)
    assert "the hidden input is unknown" in found.text and (found.passed, found.total) == (0, 4)


# --- Refusals ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test": str(HUB_ROW["test"]).replace("np.allclose", "closer")}, "assertion calls closer, a special oracle"),
        (
            {"test": str(HUB_ROW["test"]).replace("exp, 0)", "exp or inp, 0)")},
            "test expects 'exp or inp'; expected exp",
        ),
        (
            {"test": str(HUB_ROW["test"]).replace("    assertion(similar", "    assert _poly(similar")},
            "compares in a way that is not known: 'assert _poly",
        ),
        (
            {"test": SURFACE.replace("_surface_Area(*inp)", "_volume(*inp)")},
            r"the tolerance is '_volume\(\*inp\), 0'; expected a number",
        ),
        ({"test": str(HUB_ROW["test"]).replace("exp, 0)", "exp, -1)")}, "the tolerance is '-1'; expected a number"),
        ({"test": str(HUB_ROW["test"]).replace("(4, 5), ", "")}, "has 4 inputs and 3 results"),
        ({"test": str(HUB_ROW["test"]).replace("(4, 5), ", "open('x'), ")}, r"open\('x'\).* is no plain value"),
        ({"test": "inputs = [\nassertion("}, "test does not parse"),
        ({"test": hub_test("f", "[[1]]", None), "code": ""}, "the reference solution is ''"),
        ({"code": ["def f(): pass"]}, "code is .*; expected the source of the reference solution"),
        ({"test": str(HUB_ROW["test"]).replace("exp, 0)", "exp, 1" + "0" * 400 + ")")}, "the tolerance is '10"),
    ],
)
def test_a_row_of_the_hub_that_is_judged_otherwise_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"task 2: .*{said}"):
        MBPP.task({**HUB_ROW, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"entry_point": "a b"}, "entry_point is 'a b'"),
        ({"canonical_solution": None}, "the reference solution is None"),
        ({"atol": "much"}, "atol is 'much'"),
        ({"atol": 10**400}, "atol is 10"),
        ({"base_input": 3}, "base_input is 3"),
        ({"base_input": [], "plus_input": []}, "are empty; expected at least one input"),
        ({"base_input": [[3, [1]]], "task_id": "Mbpp/252"}, "an input is not as those of task 252"),
        ({"task_id": "second"}, "task_id is 'second'; expected one like Mbpp/2"),
        ({"prompt": 3}, "prompt is 3"),
        ({"assertion": "assert ("}, "the asserts do not parse"),
        ({"prompt": '"""\nNo asserts.\n"""', "assertion": ""}, "test_list is empty"),
    ],
)
def test_a_row_of_evalplus_that_is_none_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"task .*{said}"):
        MBPP.task({**EVALPLUS_ROW, **changes})


def test_the_prompts_asserts_are_shown_where_there_are_no_others() -> None:
    row = {name: value for name, value in EVALPLUS_ROW.items() if name != "assertion"}
    assert MBPP.task(row).data["test_list"] == [
        "assert set(similar_elements((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))"
    ]


@pytest.mark.parametrize("plus", [3, {}, {"entry_point": "f"}, {**MBPP.task(HUB_ROW).data["plus"], "results": []}])
def test_broken_data_are_refused(plus: Any) -> None:
    row = build_verl_row(MBPP.task(HUB_ROW), "test", 0)
    data = {**json.loads(row["reward_model"]["ground_truth"]), "plus": plus}
    with pytest.raises(ValueError, match="expected the tests of MBPP"):
        MBPP.task({**row, "reward_model": {"ground_truth": data}})


def test_a_column_called_test_alone_makes_no_row_of_mbpp_plus() -> None:
    task = MBPP.task({**HUB_ROW, "test": "similar_elements is easy"})
    assert "plus" not in task.data


@pytest.mark.parametrize("source", ["deque([1, 2])", "Counter({'a': 2})", "OrderedDict([('b', 1), ('a', 2)])"])
def test_values_of_the_librarys_types_are_compared_as_such(source: str) -> None:
    row = {**HUB_ROW, "test": hub_test("similar_elements_of", "[[[1], [2]]]", f"[{source}]"), "test_list": [
        f"assert similar_elements_of([1], [2]) == {source}"]}  # fmt: skip
    environment = MBPP()
    environment.reset(MBPP.task(row), seed=0)
    code = f"from collections import *\ndef similar_elements_of(a, b): return {source}"
    assert environment.step(f"```python\n{code}\n```").info["success"]
    environment.reset(MBPP.task(row), seed=0)
    assert not environment.step(f"```python\n{code}.copy() and [1, 2]\n```").info["success"]
