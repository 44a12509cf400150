"""The two published forms of MBPP+: evalplus/mbppplus on the hub, and EvalPlus' own MbppPlus-v0.2.0.jsonl."""

from __future__ import annotations

import ast
import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from leafe_verl.environments.mbpp_plus import SPECIAL, PlusTests
from leafe_verl.environments.python_values import evaluate
from leafe_verl.environments.rows import is_amount
from leafe_verl.sandbox.values import to_text

LOOP = "a loop over inputs whose body is assertion(FUNCTION(*inp), exp, atol)"
COMPARING = frozenset(
    ("is_floats", "isinstance", "all", "set", "len", "type", "abs", "allclose", "assert_allclose")
)  # fmt: skip
"""What `assertion` of a row on the hub calls. A row that calls something else compares in a way of its own."""


def is_hub_row(row: Mapping[str, Any]) -> bool:
    """Return whether a row is of MBPP+ in the form of the hub: MBPP's own, with the program of all tests in `test`."""
    test = row.get("test")
    return isinstance(test, str) and "inputs = " in test and "assertion(" in test


def is_evalplus_row(row: Mapping[str, Any]) -> bool:
    """Return whether a row is of EvalPlus' own file."""
    return "entry_point" in row and "base_input" in row


# --- The hub's form ---


def read_hub_tests(row: Mapping[str, Any]) -> PlusTests:
    """Return the tests of a row on the hub. Raises ValueError, which names it, for a form that is not known."""
    code = row.get("code")
    if not isinstance(code, str | None):
        raise ValueError(f"code is {code!r:.80}; expected the source of the reference solution")
    return _read_program(row["test"], code)


@functools.lru_cache(maxsize=512)  # a run reads its task files several times, and parsing takes milliseconds
def _read_program(test: str, code: Any) -> PlusTests:
    try:
        body = ast.parse(test).body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"test does not parse ({error}); expected a Python program") from None
    values = {
        target.id: node.value
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    name, expected, atol = _read_loop(body)
    as_sets = _read_assertion(body)
    inputs = _elements("inputs", values.get("inputs"))
    if expected == "ref_func":
        return PlusTests(name, inputs, None, _reference(code), atol, as_sets)
    results = _elements("results", values.get("results"))
    if len(results) != len(inputs):
        raise ValueError(f"test has {len(inputs)} inputs and {len(results)} results; expected as many of each")
    return PlusTests(name, inputs, results, None, atol, as_sets)


def _read_loop(body: Sequence[ast.stmt]) -> tuple[str, str, float]:
    """Return the function that is tested, `exp` or `ref_func` for what is expected, and the absolute tolerance."""
    loops = [node for node in body if isinstance(node, ast.For)]
    statement = loops[-1].body[0] if loops and len(loops[-1].body) == 1 else None
    match statement:
        case ast.Expr(
            ast.Call(
                ast.Name("assertion"),
                [ast.Call(ast.Name(function), [ast.Starred()], []), expected, *rest],
                [],
            )
        ):
            return function, _expected_name(expected), _tolerance(_without_second_answer(function, rest))
    shown = ast.unparse(statement)[:80] if statement else "nothing"
    raise ValueError(f"test compares in a way that is not known: {shown!r}; expected {LOOP}")


def _without_second_answer(function: str, rest: Sequence[ast.expr]) -> Sequence[ast.expr]:
    """Leave out `_FUNCTION(*inp)`, the other answer to a task that can be read in two ways. SPECIAL computes it."""
    match rest:
        case [ast.Call(ast.Name(name), [ast.Starred()], []), *others] if name == f"_{function}" and function in SPECIAL:
            return others
    return rest


def _expected_name(node: ast.expr) -> str:
    match node:
        case ast.Name("exp"):
            return "exp"
        case ast.Call(ast.Name("ref_func"), [ast.Starred()], []):
            return "ref_func"
    raise ValueError(f"test expects {ast.unparse(node)[:80]!r}; expected exp, or ref_func(*inp)")


def _tolerance(rest: Sequence[ast.expr]) -> float:
    value = evaluate(rest[0]) if len(rest) == 1 else 0 if not rest else None
    if not is_amount(value):
        raise ValueError(f"the tolerance is {', '.join(map(ast.unparse, rest))[:80]!r}; expected a number")
    return float(value)


def _read_assertion(body: Sequence[ast.stmt]) -> bool:
    """Return whether `assertion` compares sets. Raises ValueError if it calls what is not known."""
    definition = next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == "assertion"), None)
    if definition is None:
        raise ValueError("test does not define assertion; expected EvalPlus' own")
    functions = [node.func for node in ast.walk(definition) if isinstance(node, ast.Call)]
    names = {each.attr if isinstance(each, ast.Attribute) else ast.unparse(each) for each in functions}
    if unknown := sorted(names - COMPARING):
        raise ValueError(
            f"assertion calls {', '.join(unknown)}, a special oracle that is not supported; supported are EvalPlus' of "
            "version 0.3.1"
        )
    return "set" in names


def _elements(name: str, node: ast.expr | None) -> list[str]:
    """Return the sources of a list's items, as plain values."""
    if not isinstance(node, ast.List) or not node.elts:
        raise ValueError(f"test has no list {name}; expected {LOOP}")
    return [to_text(evaluate(each)) for each in node.elts]


def _reference(code: Any) -> str:
    if not isinstance(code, str) or not code.strip():
        raise ValueError(f"the reference solution is {code!r:.80}; expected its source, since no results are given")
    return code


# --- EvalPlus' own form ---


def read_evalplus_tests(row: Mapping[str, Any]) -> PlusTests:
    """Return the tests of a row of EvalPlus' own file. Raises ValueError that says what came."""
    inputs = [*_inputs(row, "base_input"), *_inputs(row, "plus_input")]
    atol, name = row.get("atol") or 0, row["entry_point"]
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"entry_point is {name!r:.80}; expected the name of the function")
    if not is_amount(atol):
        raise ValueError(f"atol is {atol!r:.80}; expected a number of at least 0")
    if not inputs:
        raise ValueError("base_input and plus_input are empty; expected at least one input")
    number = _task_number(row.get("task_id"))
    try:
        sources = list(dict.fromkeys(to_text(_python_input(number, arguments)) for arguments in inputs))
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"an input is not as those of task {number} are ({error}); expected EvalPlus' file") from None
    return PlusTests(name, sources, None, _reference(row.get("canonical_solution")), float(atol))


def read_evalplus_words(row: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the task in words and the asserts that are shown.

    They are those of `assertion`, else those of the prompt, which is a docstring of words and asserts.
    """
    prompt = row.get("prompt")
    if not isinstance(prompt, str):
        raise ValueError(f"prompt is {prompt!r:.80}; expected the task in words")
    with contextlib.suppress(ValueError, SyntaxError):  # else it is the words themselves
        prompt = ast.literal_eval(prompt.strip())
    lines = str(prompt).strip().splitlines()
    first = next((index for index, line in enumerate(lines) if line.startswith("assert ")), len(lines))
    own = row.get("assertion")
    shown = _asserts(own if isinstance(own, str) and own.strip() else "\n".join(lines[first:]))
    return "\n".join(lines[:first]).strip(), shown


def _asserts(source: str) -> list[str]:
    try:
        body = ast.parse(source.strip()).body
    except SyntaxError as error:
        raise ValueError(f"the asserts do not parse ({error.msg}): {source.strip()[:80]!r}") from None
    return [ast.get_source_segment(source.strip(), node) or "" for node in body if isinstance(node, ast.Assert)]


def _inputs(row: Mapping[str, Any], name: str) -> list[Any]:
    value = row.get(name)
    if value in (None, {}, ""):
        return []
    if not isinstance(value, list) or not all(isinstance(each, list) for each in value):
        raise ValueError(f"{name} is {value!r:.80}; expected a list of lists of arguments")
    return value


def _task_number(key: Any) -> int:
    number = str(key).rpartition("/")[2]
    if not number.isdecimal():
        raise ValueError(f"task_id is {key!r:.80}; expected one like Mbpp/2, which says what types its inputs have")
    return int(number)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _tuples_within(value: Any) -> Any:
    return [_tuple(each) for each in value]


def _deep_tuple(value: Any) -> Any:
    return tuple(map(_deep_tuple, value)) if isinstance(value, list) else value


def _at(place: int, change: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    """Return a change of the argument at a place alone."""
    return lambda arguments: [change(each) if index == place else each for index, each in enumerate(arguments)]


def _each(change: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    return lambda arguments: list(map(change, arguments))


Change = Callable[[list[Any]], list[Any]]
_CHANGES: Sequence[tuple[Iterable[int], Change]] = (
    ((2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809),
     _each(_tuple)),
    ((63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780), _each(_tuples_within)),
    ((75, 413, 444, 753), _at(0, _tuples_within)),
    ((106, 750), _at(1, _tuple)),
    ((115,), _at(0, lambda sets: [set(each) if isinstance(each, list) and each else {} for each in sets])),
    ((124,), lambda arguments: [float(arguments[0]), complex(arguments[1])]),
    ((252,), _at(0, complex)),
    ((250, 307, 405, 446, 617, 720, 763, 808), _at(0, _tuple)),
    ((259, 278, 401, 445), _each(lambda value: tuple(_tuples_within(value)))),
    ((722,), _at(0, lambda found: {key: tuple(each) for key, each in found.items()})),
    ((580, 615, 791), _each(_deep_tuple)),
)  # fmt: skip
"""Number of a task -> what makes its arguments of those in JSON, which has no tuples, sets and complex numbers. These
are the facts of `mbpp_deserialize_inputs` (evalplus/data/mbpp.py)."""


@functools.cache
def _change(number: int) -> Change | None:
    return next((change for numbers, change in _CHANGES if number in numbers), None)


def _python_input(number: int, arguments: list[Any]) -> list[Any]:
    change = _change(number)
    return change(arguments) if change else arguments
