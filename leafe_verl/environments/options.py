"""Checks of what a user sets under `leafe.environment.options`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

SETTING = "leafe.environment.options"
"""Prefix of an environment's options in the configuration, for messages."""


def option_files(options: Mapping[str, Any]) -> list[str]:
    """Return the names of the options that name a file."""
    return [name for name, value in options.items() if name.endswith(("_path", "_file")) and isinstance(value, str)]


def require_at_least(least: float, **options: Any) -> None:
    """Raise a ValueError that names the setting of the first option that is no finite number, or below `least`."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
            raise ValueError(f"{SETTING}.{name} is {value!r}; expected at least {least}")


def require_whole(least: int, **options: Any) -> None:
    """Raise a ValueError that names the setting of the first option that is no whole number, or below `least`."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{SETTING}.{name} is {value!r}; expected at least {least}, a whole number")
