"""Checks of what a user sets under `leafe.environment.options`."""

from __future__ import annotations

SETTING = "leafe.environment.options"
"""Prefix of an environment's options in the configuration, for messages."""


def require_at_least(least: float, **options: float) -> None:
    """Raise a ValueError that names the setting of the first option below `least`."""
    for name, value in options.items():
        if value < least:
            raise ValueError(f"{SETTING}.{name} is {value!r}; expected at least {least}")
