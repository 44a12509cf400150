"""What a child of the zygote does after it is confined: it runs the submitted code and answers.

The answer goes into a pipe of its own, line by line, so that a call that hangs does not hide the calls before it:

    {"confinement": [...]}                        before any submitted code runs
    {"defined": true} or {"failure": text}
    {"value": tagged}, {"raised": text} or {"unrepresentable": text}      for each call

The answer of a whole program is the first line and, if it fails, the text of its failure; what counts is its stdout and
its exit code. Nothing in this module is secret or trusted: submitted code may change all of it, and gains no more by
that than by returning a value. It needs only the standard library.
"""

from __future__ import annotations

import _thread
import builtins
import collections
import ctypes
import datetime
import itertools
import json
import os
import random
import re
import resource
import sys
import time
import types

TYPE_CHECKING = False
if TYPE_CHECKING:  # a smaller zygote forks faster
    from collections.abc import Iterator, Mapping
    from typing import Any

MAX_DEPTH = 50
CODE, SETUP, CALL = "<solution>", "<set-up>", "<call>"
SOFTWARE_ERROR = 70
"""Exit code (from sysexits.h) of a run that failed before it came to submitted code."""
SHOWN_LINES = 3
SHOWN_CHARACTERS = 400


class Unrepresentable(Exception):
    """A value cannot be represented as plain data; the message says why."""


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


def encode(value: Any, room: list[int], depth: int = 0) -> Any:
    """Return `value` as tagged JSON, which `decode` in values.py reads. A value of a subclass becomes one of the base.

    `room` is a list with one item, the number of bytes that are left. Raises Unrepresentable. Only methods of the base
    types are called, because a subclass may override them.
    """
    kind = type(value)
    room[0] -= 2
    if room[0] < 0:
        raise Unrepresentable("too large")
    if value is None or kind is bool:
        return value
    for base, encode_scalar in SCALARS.items():
        if issubclass(kind, base):
            return encode_scalar(value, room)
    if depth >= MAX_DEPTH:
        raise Unrepresentable(f"nested more than {MAX_DEPTH} deep")
    if kind not in PLAIN:
        if kind in VIEWS:
            tag, encode_parts = VIEWS[kind]
            return [tag, encode_parts(value, room, depth)]
        if kind in ITERATORS:
            return encode_iterator(value, room, depth)
        for tag, made, parts, encode_parts in library():
            if kind is made:
                return [tag, encode_parts(parts(value), room, depth)]
    if issubclass(kind, dict):
        return ["dict", encode_pairs(dict.items(value), room, depth)]
    for base in (list, tuple, set, frozenset):
        if issubclass(kind, base):
            return [base.__name__, encode_items(base.__iter__(value), room, depth)]
    raise Unrepresentable(type.__dict__["__name__"].__get__(kind))


def encode_items(items: Any, room: list[int], depth: int) -> list[Any]:
    return [encode(item, room, depth + 1) for item in items]


def encode_pairs(pairs: Any, room: list[int], depth: int) -> list[Any]:
    return [[encode(key, room, depth + 1), encode(value, room, depth + 1)] for key, value in pairs]


def encode_iterator(value: Any, room: list[int], depth: int) -> Any:
    """Return an iterator's items, and why there are no more of them: None if it has ended.

    One that goes on is cut off, and takes an eighth of the room. What it yields is computed here and now.
    """
    begun, kept, ending = room[0], 0, None
    items: list[Any] = []
    deadline = time.process_time() + ITERATOR_SECONDS
    try:
        for item in value:
            items.append(encode(item, room, depth + 1))
            if room[0] >= begun - begun // 8:
                kept = len(items)
            if time.process_time() > deadline:
                raise Unrepresentable("too large")
    except Unrepresentable as reason:
        if str(reason) != "too large":
            raise
        ending, items, room[0] = "goes on beyond what a run may answer", items[:kept], begun - begun // 8
    except BaseException as error:
        ending = describe(error, {})
    return ["iterator", [ITERATORS[type(value)], items, ending]]


def library() -> Iterator[tuple[str, Any, Any, Any]]:
    """Yield the tag of each type of LIBRARY, the type, what takes a value apart, and what encodes the parts.

    The type is None if the program has not imported its module, so that no value can be from there.
    """
    for (module, name), (parts, encode_parts) in LIBRARY.items():
        yield name, getattr(sys.modules.get(module), name, None), parts, encode_parts


def parts_of_zone(zone: Any) -> tuple[Any, ...]:
    """Return the offset of a time zone of fixed offset, in none or one part."""
    if zone is None:
        return ()
    if type(zone) is not type(datetime.timezone.utc):
        raise Unrepresentable(type.__dict__["__name__"].__get__(type(zone)))
    return (zone.utcoffset(None),)


def parts_of_clock(value: Any) -> tuple[Any, ...]:
    return value.hour, value.minute, value.second, value.microsecond, value.fold, parts_of_zone(value.tzinfo)


def parts_of_match(value: re.Match[Any]) -> tuple[Any, ...]:
    return (value.group()[:SHOWN_CHARACTERS],)


def parts_of_class(value: type) -> tuple[str]:
    if builtins.__dict__.get(value.__name__) is not value:
        raise Unrepresentable("type")
    return (value.__name__,)


def encode_int(value: int, room: list[int]) -> Any:
    value = int.__int__(value)
    take(room, value.bit_length() // 4)
    return value if abs(value) < 2**53 else ["int", hex(value)]


def encode_str(value: str, room: list[int]) -> Any:
    value = str.__str__(value)
    take(room, len(value))
    try:
        value.encode()
    except UnicodeEncodeError:  # lone surrogates: JSON would join two of them into one character
        return ["str", value.encode("utf-8", "surrogatepass").hex()]
    return value


def encode_bytes(value: bytes, room: list[int]) -> Any:
    take(room, 2 * bytes.__len__(value))
    return ["bytes", bytes.hex(value)]


def encode_complex(value: complex, room: list[int]) -> Any:
    value = complex.__pos__(value)
    return ["complex", [value.real.hex(), value.imag.hex()]]


def take(room: list[int], size: int) -> None:
    room[0] -= size
    if room[0] < 0:
        raise Unrepresentable("too large")


SCALARS: Mapping[type, Any] = {
    int: encode_int,
    float: lambda value, room: ["float", float.hex(value)],
    str: encode_str,
    bytes: encode_bytes,
    complex: encode_complex,
}


PLAIN = (dict, list, tuple, set, frozenset)
LIBRARY: Mapping[tuple[str, str], tuple[Any, Any]] = {
    ("builtins", "range"): (lambda value: (value.start, value.stop, value.step), encode_items),
    ("builtins", "bytearray"): (lambda value: (bytes(value),), encode_items),
    ("builtins", "type"): (parts_of_class, encode_items),
    ("collections", "deque"): (lambda value: (list(value), value.maxlen), encode_items),
    ("collections", "Counter"): (dict.items, encode_pairs),
    ("collections", "OrderedDict"): (lambda value: value.items(), encode_pairs),
    ("decimal", "Decimal"): (lambda value: (str(value),), encode_items),
    ("fractions", "Fraction"): (lambda value: (value.numerator, value.denominator), encode_items),
    ("datetime", "date"): (lambda value: (value.year, value.month, value.day), encode_items),
    ("datetime", "time"): (parts_of_clock, encode_items),
    ("datetime", "datetime"): (
        lambda value: (value.year, value.month, value.day, *parts_of_clock(value)),
        encode_items,
    ),
    ("datetime", "timedelta"): (lambda value: (value.days, value.seconds, value.microseconds), encode_items),
    ("datetime", "timezone"): (parts_of_zone, encode_items),
    ("array", "array"): (lambda value: (value.typecode, value.tolist()), encode_items),
    ("re", "Match"): (parts_of_match, encode_items),
}
"""The library's types of which values are told exactly, what takes a value apart, and what encodes the parts. A value
of a subclass is told as one of the base or not at all, because the subclass may be the program's."""
EMPTY: tuple[Any, ...] = ({}, collections.OrderedDict())
VIEWS: Mapping[type, tuple[str, Any]] = {
    type(getattr(each, name)()): (name, encode_parts)
    for each in EMPTY
    for name, encode_parts in (("keys", encode_items), ("values", encode_items), ("items", encode_pairs))
}
SEQUENCES: tuple[Any, ...] = (
    [],
    (),
    {},
    {}.values(),
    {}.items(),
    EMPTY[1],
    collections.deque(),
    range(0),
    range(2**64),
)
ITERABLES: tuple[Any, ...] = (*SEQUENCES, "", "\xe9", b"", bytearray(), set())
ITERATORS: Mapping[type, str] = {
    **{type(iter(each)): "iterator" for each in ITERABLES},
    **{type(reversed(each)): "iterator" for each in SEQUENCES},
    **{each: "iterator" for each in vars(itertools).values() if isinstance(each, type) and hasattr(each, "__next__")},
    **{each: each.__name__ for each in (map, filter, zip)},
    **{enumerate: "iterator", reversed: "iterator", type(iter(int, 0)): "iterator", types.GeneratorType: "generator"},
}
"""The types of Python's own iterators. What one yields may be the program's, and is told like any other value."""
ITERATOR_SECONDS = 1.0
"""CPU time after which an iterator that still goes on is cut off."""


def describe(error: BaseException, sources: Mapping[str, str]) -> str:
    """Return the exception with the last lines of submitted code that it passed, without paths of the host."""
    try:
        name = type.__dict__["__name__"].__get__(type(error))
        shown = [*passed_lines(error, sources)[-SHOWN_LINES:], f"{name}: {clean_message(error)}".removesuffix(": ")]
        return "\n".join(shown)
    except BaseException:
        return "an exception that cannot be described"


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
        answer.send(raised=describe(error, sources))


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
