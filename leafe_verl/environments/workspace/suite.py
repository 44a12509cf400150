"""Runs a repository's tests in the sandbox and prints which fail and why. This file is sent there as a whole program.

Its input names the modules of tests, one a line. Of each, the functions `test_*` are called in their order. Where an
assert fails that compares two sides, both are shown. What it prints is for the agent alone: nothing is judged by it,
since the program that is tested can change it.
"""

from __future__ import annotations

import ast
import importlib
import linecache
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # a smaller program starts faster
    from types import FrameType, TracebackType

SHOWN_FAILURES = 3
SHOWN_CHARACTERS = 200


def main(modules: list[str]) -> None:
    passed, failures = 0, list[str]()
    for name in modules:
        try:
            module = importlib.import_module(name)
        except BaseException as error:
            failures.append(f"{name} cannot be imported\n{describe(error)}")
            continue
        for test, function in list(vars(module).items()):
            if test.startswith("test_") and callable(function):
                try:
                    function()
                    passed += 1
                except BaseException as error:
                    failures.append(f"{name}.{test}\n{describe(error)}")
    for failure in failures[:SHOWN_FAILURES]:
        print(f"FAILED {failure}")
    for failure in failures[SHOWN_FAILURES:]:
        print("FAILED", failure.partition("\n")[0])
    print(f"{passed} passed, {len(failures)} failed")


def describe(error: BaseException) -> str:
    """Return where an exception was raised and what it says, with the sides of a comparison that does not hold."""
    frames = list(frames_of(error.__traceback__))
    # The first frame is this file's, and the import system's are of no interest.
    shown = [each for each in frames[1:] if "importlib" not in each[0].f_code.co_filename]
    lines = [f"  {place(frame, line)}" for frame, line in shown[-2:]]
    if isinstance(error, AssertionError) and not error.args and shown:
        lines += [f"  {side}" for side in sides(*shown[-1])]
    else:
        lines.append(f"  {type(error).__name__}: {cut(str(error))}")
    return "\n".join(lines)


def frames_of(trace: TracebackType | None) -> list[tuple[FrameType, int]]:
    found = []
    while trace is not None:
        found.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return found


def place(frame: FrameType, line: int) -> str:
    text = linecache.getline(frame.f_code.co_filename, line, frame.f_globals).strip()
    module = frame.f_globals.get("__name__", "?")
    return f"{module}, line {line}, in {frame.f_code.co_name}: {cut(text)}"


def sides(frame: FrameType, line: int) -> list[str]:
    """Evaluate both sides of the comparison that an assert in this line makes."""
    source = "".join(linecache.getlines(frame.f_code.co_filename, frame.f_globals))
    try:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Assert) and node.lineno <= line <= (node.end_lineno or line):
                test = node.test
                if isinstance(test, ast.Compare) and len(test.ops) == 1:
                    left, right = value(test.left, frame), value(test.comparators[0], frame)
                    return [f"{left} on the left", f"{right} on the right"]
    except BaseException as error:
        return [f"{type(error).__name__} when its sides are evaluated again"]
    return ["it does not hold"]


def value(node: ast.expr, frame: FrameType) -> str:
    code = compile(ast.Expression(node), "<assert>", "eval")
    return cut(repr(eval(code, frame.f_globals, frame.f_locals)))


def cut(text: str) -> str:
    text = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
    return text.replace("\n", "\\n")


if __name__ == "__main__":
    main(sys.stdin.read().split())
