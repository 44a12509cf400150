"""Environments by name. To add one, write a class with core's `Environment` methods and add a line to BUILT_IN.

The class also needs a class method by which data sets are read, `task(row, *, default_key=None) -> Task`, which raises
ValueError for a row that is not a task. What it may have beside that: `ability`, `build_request` and `verl_row` (see
`rows.build_verl_row`), `calls` (see `tool_calls.CallReader`) and `several_answers` (see several_answers.py).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from leafe_verl.core.environment import Environment

BRIDGES = {
    "gymnasium": "leafe_verl.environments.gymnasium_text:GymnasiumText",
    "mcp_tools": "leafe_verl.environments.mcp_tools:McpTools",
    "openenv": "leafe_verl.environments.openenv:OpenEnv",
    "reasoning_gym": "leafe_verl.environments.reasoning_gym:ReasoningGym",
    "textarena": "leafe_verl.environments.textarena:TextArena",
    "verifiers": "leafe_verl.environments.verifiers:Verifiers",
    "verl_tools": "leafe_verl.environments.verl_tools:VerlTools",
}
"""Those that play what another library offers: options say what, so that they have no recipe of their own."""
BUILT_IN = {
    "alfworld": "leafe_verl.environments.alfworld:ALFWorld",
    "scienceworld": "leafe_verl.environments.scienceworld:ScienceWorld",
    "mbpp": "leafe_verl.environments.mbpp:MBPP",
    "codecontests": "leafe_verl.environments.codecontests:CodeContests",
    "sokoban": "leafe_verl.environments.sokoban:Sokoban",
    "webshop": "leafe_verl.environments.webshop:WebShop",
    "workspace": "leafe_verl.environments.workspace.environment:Workspace",
    **BRIDGES,
}
"""Name to module:class. The module is imported on first use, because an environment may need heavy libraries."""

Class = TypeVar("Class", bound=type)
_registered: dict[str, type] = {}


def register(name: str) -> Callable[[Class], Class]:
    """Register an environment's class under `name` (a class decorator). Raises ValueError if the name is taken."""

    def add(environment: Class) -> Class:
        if name in BUILT_IN or _registered.get(name, environment) is not environment:
            raise ValueError(
                f"an environment named {name!r} exists already; register {environment.__name__} under another name"
            )
        _registered[name] = environment
        return environment

    return add


def names() -> list[str]:
    """Return every registered name, sorted."""
    return sorted({*BUILT_IN, *_registered})


def environment_class(name: str) -> Any:
    """Return the class of a registered name or of a path `package.module:Class`.

    Raises ValueError, which lists the names, if there is no such class.
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
    """Return a new instance. `options` are arguments of its constructor; raises ValueError if they do not fit it."""
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
