"""Environments by name. Add one: a file here with a class that has core's `Environment` methods, and a line below.

Besides those methods a class offers two class methods, so that data sets can be read and written for it:
`task(row, *, default_key=None) -> Task`, which raises ValueError for a row it cannot play, and
`verl_row(task, split, index) -> dict`, the row of verl's parquet files.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from leafe_verl.core.environment import Environment

BUILT_IN = {
    "alfworld": "leafe_verl.environments.alfworld:ALFWorld",
    "scienceworld": "leafe_verl.environments.scienceworld:ScienceWorld",
    "mbpp": "leafe_verl.environments.mbpp:MBPP",
    "codecontests": "leafe_verl.environments.codecontests:CodeContests",
    "gymnasium": "leafe_verl.environments.gymnasium_text:GymnasiumText",
    "sokoban": "leafe_verl.environments.sokoban:Sokoban",
    "webshop": "leafe_verl.environments.webshop:WebShop",
}
"""Name to module:class, imported when first asked for: an environment may need heavy libraries."""

Class = TypeVar("Class", bound=type)
_registered: dict[str, type] = {}


def register(name: str) -> Callable[[Class], Class]:
    """Class decorator: make an environment known by `name`. Raises ValueError when another class has that name."""

    def add(environment: Class) -> Class:
        if name in BUILT_IN or _registered.get(name, environment) is not environment:
            raise ValueError(
                f"an environment named {name!r} exists already; register {environment.__name__} as another"
            )
        _registered[name] = environment
        return environment

    return add


def names() -> list[str]:
    """Return every registered name, sorted."""
    return sorted({*BUILT_IN, *_registered})


def environment_class(name: str) -> Any:
    """Return the class of a registered name, or of a path `package.module:Class`.

    Raises ValueError, saying what there is, for a name or path that leads to none.
    """
    if name in _registered:
        return _registered[name]
    path = BUILT_IN.get(name, name)
    module_name, colon, class_name = path.partition(":")
    if not (module_name and colon and class_name):
        raise ValueError(f"no environment is named {name!r}; {_CHOICES.format(names=', '.join(names()))}")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(
            f"cannot import environment {path!r} ({error}); {_CHOICES.format(names=', '.join(names()))}"
        ) from error
    if not isinstance(found, type):
        raise ValueError(f"{path!r} is a {type(found).__name__}; expected an environment's class")
    return found


def make(name: str, **options: Any) -> Environment:
    """Return a new instance. `options` are its constructor's; raises ValueError for those that it does not have."""
    found = environment_class(name)
    try:
        inspect.signature(found).bind(**options)
    except TypeError as error:
        raise ValueError(
            f"environment {name!r}: {error}; leafe.environment.options takes {inspect.signature(found)}"
        ) from None
    environment: Environment = found(**options)
    return environment


_CHOICES = "set leafe.environment.name to one of {names}, or to package.module:Class of your own"
