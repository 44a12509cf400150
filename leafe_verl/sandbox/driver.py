"""What a child of the zygote does after it is confined: it runs the submitted code and answers.

The answer goes into a pipe of its own, line by line, so that a call that hangs does not hide the calls before it:

    {"confinement": [...]}                        before any submitted code runs
    {"defined": true} or {"failure": text}
    {"value": tagged}, {"raised": [text, name, ...]} or {"unrepresentable": text}      for each call

The names are those of Python's own exceptions that what was raised is, or is derived from.

The answer of a whole program is the first line and, if it fails, the text of its failure; what counts is its stdout and
its exit code. Nothing in this module is secret or trusted: submitted code may change all of it, and gains no more by
that than by returning a value. It needs only the standard library.
"""

from __future__ import annotations

import _thread
import builtins
import ctypes
import json
import os
import random
import re
import resource
import sys
import types

from leafe_verl.sandbox.encoding import Clock, Unrepresentable, encode

TYPE_CHECKING = False
if TYPE_CHECKING:  # a smaller zygote forks faster
    from collections.abc import Mapping
    from typing import Any

CODE, SETUP, CALL = "<solution>", "<set-up>", "<call>"
SOFTWARE_ERROR = 70
"""Exit code (from sysexits.h) of a run that failed before it came to submitted code."""
ITERATORS_SHARE = 0.75
"""Share of a run's CPU time after which an iterator that still goes on is cut off, so that its beginning is known."""
OWN_FRAMES = 9
"""Frames of the zygote and of this module below the first one of submitted code."""
SHOWN_LINES = 3
SHOWN_CHARACTERS = 400
EXCEPTIONS = [
    (name, each)
    for name, each in vars(builtins).items()
    if isinstance(each, type) and issubclass(each, BaseException) and each.__name__ == name
]


class Answer:
    """The pipe of the answer, and how many bytes it may still take."""

    def __init__(self, descriptor: int, limit: int) -> None:
        self.descriptor, self.left = descriptor, limit

    def send(self, **line: Any) -> None:
        """Send a line that is known to be short."""
        self._write(json.dumps(line).encode())

    def send_value(self, tagged: Any) -> None:
        """Send a value. Raises Unrepresentable if the line does not fit into the bytes that are left."""
        data = json.dumps({"value": tagged}).encode()
        if len(data) > self.left:
            raise Unrepresentable("too large")
        self._write(data)

    def _write(self, data: bytes) -> None:
        data += b"\n"
        self.left -= len(data)
        while data:
            data = data[os.write(self.descriptor, data) :]


def describe(error: BaseException, sources: Mapping[str, str]) -> str:
    """Return the exception with the last lines of submitted code that it passed, without paths of the host."""
    try:
        name = type.__dict__["__name__"].__get__(type(error))
        shown = [*passed_lines(error, sources)[-SHOWN_LINES:], f"{name}: {clean_message(error)}".removesuffix(": ")]
        return "\n".join(shown)
    except BaseException:
        return "an exception that cannot be described"


def exceptions_of(error: BaseException) -> list[str]:
    """Return the names of Python's own exceptions that this one is, or is derived from."""
    bases = type.__dict__["__mro__"].__get__(type(error))
    return [name for name, known in EXCEPTIONS if any(each is known for each in bases)]


def passed_lines(error: BaseException, sources: Mapping[str, str]) -> list[str]:
    passed: list[tuple[str | None, int | None, str]] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        passed.append((code.co_filename, trace.tb_lineno, code.co_name))
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        passed.append((error.filename, error.lineno, "<module>"))
    return [shown_line(sources[name], number, inside) for name, number, inside in passed if name and name in sources]


def shown_line(source: str, number: int | None, function: str) -> str:
    lines = source.split("\n")
    text = lines[number - 1].strip()[:SHOWN_CHARACTERS] if number and number <= len(lines) else ""
    inside = "" if function == "<module>" else f", in {function}"
    return f"line {number}{inside}: {text}"


def clean_message(error: BaseException) -> str:
    """Return the message without absolute paths, which belong to the host, and addresses, which vary between runs."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    text = ABSOLUTE_PATH.sub("...", text[: 4 * SHOWN_CHARACTERS])
    return re.sub(r"\b0x[0-9a-f]{6,}\b", "0x...", text)[:SHOWN_CHARACTERS]


ABSOLUTE_PATH = re.compile(r"(?<![\w.)\]</])/[\w.+@~-]+(?:/[\w.+@~-]+)*/?")


def run(request: Mapping[str, Any], answer: Answer, confinement: list[str]) -> None:
    """Run what the request asks for, and end this process."""
    answer.send(confinement=confinement)
    bound_stacks(request["limits"]["RLIMIT_AS"][0])
    Clock.end = request["limits"]["RLIMIT_CPU"][0] * ITERATORS_SHARE
    sys.setrecursionlimit(sys.getrecursionlimit() + OWN_FRAMES)
    # Python reseeds after a fork. With a fixed seed, the same program gives the same answer.
    random.seed(0)
    sources = {CODE: request["code"], SETUP: request["setup"]}
    if request["calls"] is None:
        code = run_program(answer, sources)
        # Ends the interpreter as its own end does, in the same order: threads that are no daemons, exit handlers, the
        # buffers of sys.stdout, whatever it is by now, the program's objects, and their files. Unlike sys.exit, it
        # unwinds none of the zygote's frames.
        ctypes.pythonapi.Py_Exit(code)
    else:
        run_calls(request["calls"], answer, sources)
        # Exit handlers are not run and threads not waited for, because they belong to submitted code.
        os._exit(0)


def bound_stacks(memory: int) -> None:
    """Make room for large stacks as far as memory reaches, since programs ask for more than they use.

    A thread's stack takes its whole size of the address space, which the limit counts, so half of the limit is the most
    that a thread gets. The main thread's grows as it is used, up to RLIMIT_STACK, which is the same half.
    """
    most = memory // 2 // 4096 * 4096
    set_size, set_limit = _thread.stack_size, resource.setrlimit

    def stack_size(size: int = 0, /) -> int:
        return set_size(min(size, most))

    def setrlimit(kind: int, limits: tuple[int, int], /) -> None:
        if kind != resource.RLIMIT_STACK:
            set_limit(kind, limits)

    _thread.stack_size = stack_size
    if "threading" in sys.modules:
        sys.modules["threading"].stack_size = stack_size  # type: ignore[attr-defined]
    resource.setrlimit = setrlimit


def run_calls(calls: list[str], answer: Answer, sources: Mapping[str, str]) -> None:
    module = sys.modules["solution"] = types.ModuleType("solution")
    try:
        for filename, source in sources.items():
            execute(source, filename, module.__dict__)
    except BaseException as error:
        answer.send(failure=describe(error, sources))
        return
    answer.send(defined=True)
    for call in calls:
        evaluate(call, module.__dict__, answer, {CODE: sources[CODE]})


def execute(source: str, filename: str, namespace: dict[str, Any]) -> None:
    exec(compile(source, filename, "exec", dont_inherit=True), namespace)


def evaluate(call: str, namespace: dict[str, Any], answer: Answer, sources: Mapping[str, str]) -> None:
    try:
        value = eval(compile(call, CALL, "eval", dont_inherit=True), namespace)
        answer.send_value(encode(value, [answer.left]))
    except Unrepresentable as reason:
        answer.send(unrepresentable=str(reason))
    except BaseException as error:
        answer.send(raised=[describe(error, sources), *exceptions_of(error)])


def run_program(answer: Answer, sources: Mapping[str, str]) -> int:
    """Run a whole program up to the end of its code. Returns the exit code that the interpreter is to end with."""
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = [CODE]
    open_streams()
    try:
        execute(sources[CODE], CODE, module.__dict__)
    except BaseException as error:
        code = exit_code(error)
        if code:
            answer.send(failure=describe(error, sources))
        return code
    return 0


def open_streams() -> None:
    """Give a program new standard streams: the zygote's were made for other files, whose properties they remember."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        errors = "backslashreplace" if name == "stderr" else "surrogateescape"
        stream = open(number, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        stream.buffer.raw.name = f"<{name}>"  # type: ignore[attr-defined]
        stream.mode = mode  # type: ignore[misc]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def exit_code(error: BaseException) -> int:
    if not isinstance(error, SystemExit):
        return 1
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1
