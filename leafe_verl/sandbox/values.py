"""Values that a solution returned: decoding them from the tagged JSON of an answer, and writing them as Python source.

They are plain values and values of some of the library's types, made anew from their parts. Nothing that a program
defines comes with them. An iterator, which would be used up, is a `OneShot`, and a match of a pattern a `Match`.
"""

from __future__ import annotations

import array
import builtins
import collections
import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_DEPTH = 50
MOST_OF_ONE_HASH = 100
"""Deepest nesting of containers in an answer. The program in the sandbox refuses deeper values."""
ITERATOR_SOURCES = {
    "iterator": "iter({items})",
    "generator": "(each for each in {items})",
    "map": "map(lambda each: each, {items})",
    "filter": "filter(lambda each: True, {items})",
    "zip": "zip(*zip(*{items}))",
}
"""Kind of an iterator -> the source of one with the same items."""
ENDED_BY = "__ended_by"
PRELUDE = f"""
def {ENDED_BY}(text):
    raise RuntimeError("the iterator " + text)
    yield
"""
"""What the source of a value may need."""


@dataclass(frozen=True, eq=False)
class OneShot:
    """An iterator: something that is true, equals nothing else, and yields its items once."""

    kind: str
    """One of ITERATOR_SOURCES."""
    items: list[Any]
    ending: str | None
    """Why no more items are known: it goes on too long, or raised. None if it ends."""


@dataclass(frozen=True, eq=False)
class Match:
    """A match of a regular expression: something that is true, and equals nothing else."""

    text: Any
    """What was matched, for readers."""


@dataclass(frozen=True, eq=False)
class Opaque:
    """A value of which nothing is known but that it is none of the constants. Only `is` may ask for it."""

    description: str
    """Its type's name, or why it could not be told."""


def decode(tagged: Any, depth: int = 0) -> Any:
    """Return the value that tagged JSON stands for.

    null, booleans, strings and small integers stand for themselves. Every other value is a pair [tag, content]; see
    `encode` in encoding.py. Raises ValueError, TypeError, KeyError or ArithmeticError for any other JSON.
    """
    if tagged is None or isinstance(tagged, bool | int | str):
        return tagged
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    if not isinstance(tagged, list) or len(tagged) != 2:
        raise ValueError("neither a plain JSON value nor a pair of tag and content")
    tag, content = tagged
    if tag in _SCALARS:
        return _SCALARS[tag](content)
    if not isinstance(content, list):
        raise ValueError(f"the content of {tag!r:.20} is no list")
    if tag in _FROM_PAIRS:
        pairs = [(decode(key, depth + 1), decode(value, depth + 1)) for key, value in content]
        _hashed([key for key, _ in pairs])
        return _FROM_PAIRS[tag](pairs)
    if tag == "iterator":
        kind, items, ending = content
        return _one_shot(kind, [decode(item, depth + 1) for item in items], ending)
    return _FROM_ITEMS[tag]([decode(item, depth + 1) for item in content])


def _one_shot(kind: Any, items: list[Any], ending: Any) -> OneShot:
    if kind not in ITERATOR_SOURCES or not isinstance(ending, str | None):
        raise ValueError("an iterator of no known kind")
    return OneShot(kind, items, ending)


_SCALARS: Mapping[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "float": float.fromhex,
    "complex": lambda parts: complex(*map(float.fromhex, parts)),
    "bytes": bytes.fromhex,
    "str": lambda text: bytes.fromhex(text).decode("utf-8", "surrogatepass"),
}
_CLASSES = {name: each for name, each in vars(builtins).items() if isinstance(each, type) and each.__name__ == name}


def _checked(parts: Sequence[Any], *kinds: type | tuple[type, ...]) -> Sequence[Any]:
    """Return the parts of a value if they are of the expected types. Others might be huge, such as a range."""
    if len(parts) != len(kinds) or not all(map(isinstance, parts, kinds)):
        raise ValueError("parts of other types than expected")
    return parts


def _hashed(items: list[Any]) -> list[Any]:
    """Return items that are to be in a set. Many unequal ones of one hash, which a program can choose, would take
    minutes."""
    if max(collections.Counter(map(hash, items)).values(), default=0) > MOST_OF_ONE_HASH:
        raise ValueError(f"more than {MOST_OF_ONE_HASH} items of one hash")
    return items


def _clock(parts: list[Any]) -> dict[str, Any]:
    """Return the arguments of a time or datetime that follow its date."""
    *numbers, fold, zone = parts
    named = dict(zip(("hour", "minute", "second", "microsecond"), numbers, strict=True))
    known = datetime.timezone(*_checked(zone, datetime.timedelta)) if zone else None
    return {**named, "fold": fold, "tzinfo": known}


def _decimal(parts: list[Any]) -> Decimal:
    value = Decimal(*_checked(parts, str))
    if value.is_snan():
        raise ValueError("a number that raises where it is compared")
    return value


_FROM_ITEMS: Mapping[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": lambda items: set(_hashed(items)),
    "frozenset": lambda items: frozenset(_hashed(items)),
    "keys": lambda items: dict.fromkeys(_hashed(items)).keys(),
    "values": lambda items: dict(enumerate(items)).values(),
    "range": lambda parts: range(*parts),
    "bytearray": lambda parts: bytearray(*_checked(parts, bytes)),
    "type": lambda parts: _CLASSES[parts[0]],
    "deque": lambda parts: collections.deque(*_checked(parts, list, (int, type(None)))),
    "Decimal": _decimal,
    "Fraction": lambda parts: Fraction(*_checked(parts, int, int)),
    "date": lambda parts: datetime.date(*parts),
    "time": lambda parts: datetime.time(**_clock(parts)),
    "datetime": lambda parts: datetime.datetime(*parts[:3], **_clock(parts[3:])),
    "timedelta": lambda parts: datetime.timedelta(*_checked(parts, int, int, int)),
    "timezone": lambda parts: datetime.timezone(*_checked(parts, datetime.timedelta)),
    "array": lambda parts: array.array(*_checked(parts, str, (list, str))),
    "Match": lambda parts: Match(*parts),
}
"""Tag of a value that is made of other values -> what makes it."""
_FROM_PAIRS: Mapping[str, Callable[[list[tuple[Any, Any]]], Any]] = {
    "dict": dict,
    "items": lambda pairs: dict(pairs).items(),
    "Counter": lambda pairs: collections.Counter(dict(pairs)),
    "OrderedDict": collections.OrderedDict,
}
"""Tag of a value that is made of pairs of other values -> what makes it."""


def to_source(value: Any) -> str:
    """Return a Python expression for a value. It needs PRELUDE.

    The text is the same in every process, unlike `repr`, which follows the hash order of a set.
    """
    return _Source(for_readers=False).of(value)


def to_text(value: Any) -> str:
    """Return what a reader sees of a value: its source, as one writes it with the library's names imported."""
    return _Source(for_readers=True).of(value)


@dataclass(frozen=True)
class _Source:
    for_readers: bool

    def of(self, value: Any) -> str:
        """Return the source of a value. Integers are decimal up to the length that Python prints."""
        if isinstance(value, OneShot | Match | Opaque):
            return self._stand_in(value)
        if type(value) in _IMPORTED:
            return self._imported(value)
        for base, write in _WRITERS.items():
            if isinstance(value, base):
                return write(self, value)
        if isinstance(value, float) and not math.isfinite(value):
            return f"float('{value}')"
        try:
            return repr(value)
        except ValueError:  # an integer beyond sys.get_int_max_str_digits()
            return hex(value)

    def _stand_in(self, value: OneShot | Match | Opaque) -> str:
        if isinstance(value, Opaque):
            return f"<{value.description}>" if self.for_readers else "object()"
        if isinstance(value, Match):
            return f"<re.Match of {self.of(value.text)}>" if self.for_readers else "type('Match', (), {})()"
        items = self.of(value.items)
        if self.for_readers:
            return f"<{value.kind} of {items}{'' if value.ending is None else f', which {value.ending}'}>"
        if value.ending is not None:
            items = f"__import__('itertools').chain({items}, {ENDED_BY}({value.ending!r}))"
        return ITERATOR_SOURCES[value.kind].format(items=items)

    def _imported(self, value: Any) -> str:
        kind = type(value)
        name = kind.__name__ if self.for_readers else f"__import__({kind.__module__!r}).{kind.__name__}"
        return f"{name}({_IMPORTED[kind](self, value)})"

    def items(self, values: Any) -> str:
        return ", ".join(map(self.of, values))

    def container(self, value: Any) -> str:
        if isinstance(value, list):
            return f"[{self.items(value)}]"
        if isinstance(value, tuple):
            return f"({self.items(value)},)" if len(value) == 1 else f"({self.items(value)})"
        items = ", ".join(sorted(map(self.of, value)))
        if isinstance(value, frozenset):
            return f"frozenset({{{items}}})" if items else "frozenset()"
        return f"{{{items}}}" if items else "set()"

    def dictionary(self, value: Mapping[Any, Any]) -> str:
        return "{" + ", ".join(f"{self.of(key)}: {self.of(item)}" for key, item in value.items()) + "}"

    def view(self, value: Any) -> str:
        kind, items = type(value).__name__, self.of(list(value))
        return f"{kind}({items})" if self.for_readers else _VIEWS[kind].format(items=items)

    def zone(self, value: Any) -> str:
        named = [("tzinfo", value.tzinfo)] if value.tzinfo is not None else []
        named += [("fold", value.fold)] if value.fold else []
        return "".join(f", {name}={self.of(part)}" for name, part in named)

    def clock(self, value: Any) -> str:
        return f"{value.hour}, {value.minute}, {value.second}, {value.microsecond}{self.zone(value)}"


_VIEWS = {
    "dict_keys": "dict.fromkeys({items}).keys()",
    "dict_values": "dict(enumerate({items})).values()",
    "dict_items": "dict({items}).items()",
}
_EMPTY: dict[Any, Any] = {}
_IMPORTED: Mapping[type, Callable[[_Source, Any], str]] = {
    collections.deque: lambda own, value: own.of(list(value)) + ("" if value.maxlen is None else f", {value.maxlen}"),
    collections.Counter: lambda own, value: own.dictionary(value),
    collections.OrderedDict: lambda own, value: own.of(list(value.items())),
    Decimal: lambda own, value: repr(str(value)),
    Fraction: lambda own, value: f"{own.of(value.numerator)}, {own.of(value.denominator)}",
    datetime.date: lambda own, value: f"{value.year}, {value.month}, {value.day}",
    datetime.time: lambda own, value: own.clock(value),
    datetime.datetime: lambda own, value: f"{value.year}, {value.month}, {value.day}, {own.clock(value)}",
    datetime.timedelta: lambda own, value: f"{value.days}, {value.seconds}, {value.microseconds}",
    datetime.timezone: lambda own, value: own.of(value.utcoffset(None)),
    array.array: lambda own, value: f"{value.typecode!r}, {own.of(value.tolist())}",
}
"""The library's types that need an import, and what writes the arguments that make a value."""
_WRITERS: Mapping[Any, Callable[[_Source, Any], str]] = {
    type: lambda own, value: value.__name__,
    **{type(view): _Source.view for view in (_EMPTY.keys(), _EMPTY.values(), _EMPTY.items())},
    range: lambda own, value: f"range({own.items((value.start, value.stop, value.step))})",
    dict: _Source.dictionary,
    list | tuple | set | frozenset: _Source.container,
    complex: lambda own, value: f"complex({own.of(value.real)}, {own.of(value.imag)})",
}
