"""The state of an environment of Gymnasium's form that offers `get_state` and `set_state`, with that of its wrappers.

The methods may belong to an environment inside of wrappers, which have a state of their own: a time limit counts steps.
"""

from __future__ import annotations

import inspect
import io
import pickle
from collections.abc import Sequence, Set
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

METHODS = ("get_state", "set_state")
_SHAREABLE = (
    type(None), bool, int, float, complex, str, bytes, tuple, frozenset, range, type,
    FunctionType, BuiltinFunctionType, MethodType, ModuleType,
)  # fmt: skip
"""Types whose values do not change, so that two layers may hold the same one."""
MOST_LAYERS = 100
"""No environment has more wrappers. The bound ends a search among wrappers that lead back to each other."""


class StateUnsupported(Exception):
    """The environment has no state that can be taken and set."""


def take_state(environment: Any) -> bytes:
    """Return the state. Raises StateUnsupported, or what the environment raises, if it cannot be taken."""
    layers = _layers(environment)
    attributes = [vars(layer) for layer in layers[:-1]]
    inner = {id(value) for value in _values(layers[-1]) if not isinstance(value, _SHAREABLE)}
    return pickle.dumps((_dump(layers[-1].get_state(), layers), _dump(attributes, layers, inner)))


def _dump(content: Any, layers: Sequence[Any], foreign: Set[int] = frozenset()) -> bytes:
    buffer = io.BytesIO()
    _StatePickler(buffer, layers, foreign).dump(content)
    return buffer.getvalue()


def set_state(environment: Any, taken: bytes) -> None:
    """Give an environment that was just reset a state that another one of its kind had."""
    layers = _layers(environment)
    state, attributes = (_StateUnpickler(io.BytesIO(part), layers).load() for part in pickle.loads(taken))
    if len(attributes) != len(layers) - 1:
        raise StateUnsupported(f"{len(layers) - 1} wrappers; expected {len(attributes)}, as the state has")
    layers[-1].set_state(state)
    for layer, own in zip(layers, attributes, strict=False):
        vars(layer).clear()
        vars(layer).update(own)


def _layers(environment: Any) -> list[Any]:
    """Return the wrappers from the outermost on, and last the environment that has the methods itself.

    A wrapper may pass on what it does not have, so that it is asked for its own attributes.
    """
    layers = [environment]
    while not all(_has_own(layers[-1], name) for name in METHODS):
        inner = next(
            (_own(layers[-1], name) for name in ("env", "unwrapped") if _own(layers[-1], name) is not None), None
        )
        if inner is None or any(inner is layer for layer in layers) or len(layers) == MOST_LAYERS:
            raise StateUnsupported
        layers.append(inner)
    if not all(hasattr(layer, "__dict__") for layer in layers[:-1]):
        raise StateUnsupported
    return layers


def _has_own(layer: Any, name: str) -> bool:
    return inspect.getattr_static(layer, name, None) is not None


def _own(layer: Any, name: str) -> Any:
    return getattr(layer, name, None) if _has_own(layer, name) else None


class _StatePickler(pickle.Pickler):
    """Writes a layer as its number, so that what refers to a layer refers to the new one when it is read."""

    def __init__(self, file: io.BytesIO, layers: Sequence[Any], foreign: Set[int] = frozenset()) -> None:
        """`foreign`: ids of objects that must not be part of what is written, as another layer holds them."""
        super().__init__(file)
        self._numbers = {id(layer): number for number, layer in enumerate(layers)}
        held = [value for layer in layers for value in {id(each): each for each in _values(layer)}.values()]
        ids = [id(value) for value in held if not isinstance(value, _SHAREABLE) and id(value) not in self._numbers]
        self._shared = {each for each in ids if ids.count(each) > 1} | (foreign - self._numbers.keys())

    def persistent_id(self, obj: Any) -> int | None:
        if id(obj) in self._shared:
            raise StateUnsupported("two layers hold the same object, which would be two after setting the state")
        return self._numbers.get(id(obj))


class _StateUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, layers: Sequence[Any]) -> None:
        super().__init__(file)
        self._layers = layers

    def persistent_load(self, pid: Any) -> Any:
        return self._layers[pid]


def _values(layer: Any) -> list[Any]:
    return list(vars(layer).values()) if hasattr(layer, "__dict__") else []
