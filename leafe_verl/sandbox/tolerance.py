"""How far a number may be from the expected one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tolerance:
    """Numbers agree if they differ by no more than the wider of the two bounds. Zero bounds allow no difference."""

    absolute: float = 0.0
    relative: float = 0.0
    """As a share of the expected number."""

    def allows(self, came: float, expected: float) -> bool:
        """Return whether a finite number is near enough to the expected one."""
        if not (math.isfinite(came) and math.isfinite(expected)):
            return False
        return abs(came - expected) <= max(self.absolute, self.relative * abs(expected))

    def agrees(self, came: Any, expected: Any) -> bool:
        """Return whether a value equals the expected one, or differs from it only by floats that are near enough.

        Floats may stand in lists, tuples and values of dicts, which must be of the same type and size.
        """
        if came == expected or not (self.absolute or self.relative):
            return bool(came == expected)
        if isinstance(came, float) or isinstance(expected, float):
            return _is_real(came) and _is_real(expected) and self.allows(float(came), float(expected))
        if (
            type(came) is not type(expected)
            or not isinstance(expected, list | tuple | dict)
            or len(came) != len(expected)
        ):
            return False
        if isinstance(expected, dict):
            return all(key in came and self.agrees(came[key], value) for key, value in expected.items())
        return all(map(self.agrees, came, expected))


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1023
