"""Plain values: decoding them from the tagged JSON of an answer, and writing them as Python source."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

MAX_DEPTH = 50
"""Deepest nesting of containers in an answer. The program in the sandbox refuses deeper values."""


def decode(tagged: Any, depth: int = 0) -> Any:
    """Return the value that tagged JSON stands for.

    null, booleans, strings and small integers stand for themselves. Every other value is a pair [tag, content]; see
    `encode` in driver.py. Raises ValueError, TypeError or KeyError for any other JSON.
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
    if tag == "dict":
        return {decode(key, depth + 1): decode(value, depth + 1) for key, value in content}
    return _CONTAINERS[tag](decode(item, depth + 1) for item in content)


_SCALARS: Mapping[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "float": float.fromhex,
    "complex": lambda parts: complex(*map(float.fromhex, parts)),
    "bytes": bytes.fromhex,
    "str": lambda text: bytes.fromhex(text).decode("utf-8", "surrogatepass"),
}
_CONTAINERS: Mapping[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def to_source(value: Any) -> str:
    """Return a Python expression for a plain value.

    The text is the same in every process, unlike `repr`, which follows the hash order of a set. It is also shown to
    readers, so integers are decimal up to the length that Python prints.
    """
    if isinstance(value, list | tuple | set | frozenset):
        return _container_source(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{to_source(key)}: {to_source(item)}" for key, item in value.items()) + "}"
    if isinstance(value, complex):
        return f"complex({to_source(value.real)}, {to_source(value.imag)})"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    try:
        return repr(value)
    except ValueError:  # an integer beyond sys.get_int_max_str_digits()
        return hex(value)


def _container_source(value: Any) -> str:
    items = [to_source(item) for item in value]
    if isinstance(value, list):
        return f"[{', '.join(items)}]"
    if isinstance(value, tuple):
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    items.sort()
    if isinstance(value, frozenset):
        return f"frozenset({{{', '.join(items)}}})" if items else "frozenset()"
    return f"{{{', '.join(items)}}}" if items else "set()"
