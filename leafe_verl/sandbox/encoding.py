"""Encodes what a call returned as tagged JSON, in the process of the submitted code; values.py decodes it.

Plain values are told as they are, and values of some of the library's types by their parts. Nothing in this module is
secret or trusted. It needs only the standard library.
"""

from __future__ import annotations

import builtins
import collections
import datetime
import itertools
import re
import sys
import time
import types

TYPE_CHECKING = False
if TYPE_CHECKING:  # a smaller zygote forks faster
    from collections.abc import Iterator, Mapping
    from typing import Any

MAX_DEPTH = 50
GOES_ON = "goes on beyond what a run may answer"
OUT_OF_TIME = "goes on beyond the time of a run"
"""Why no more is known of an iterator. How far it comes in that time depends on the machine."""
SHOWN_CHARACTERS = 400


class Clock:
    """The time that a run has for its iterators."""

    end = float("inf")
    """CPU time of this process after which an iterator that still goes on is cut off. Set for each run."""


class Unrepresentable(Exception):
    """A value cannot be represented as plain data; the message says why."""


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
    try:
        for item in value:
            items.append(encode(item, room, depth + 1))
            if room[0] >= begun - begun // 8:
                kept = len(items)
            if time.process_time() > Clock.end:
                raise Unrepresentable(OUT_OF_TIME)
    except Unrepresentable as reason:
        if str(reason) not in ("too large", OUT_OF_TIME):
            raise
        ending = OUT_OF_TIME if str(reason) == OUT_OF_TIME else GOES_ON
        items, room[0] = items[:kept], begun - begun // 8
    except BaseException as error:
        ending = f"raises {type.__dict__['__name__'].__get__(type(error))}"
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
    if type(zone) is not type(datetime.UTC):
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
