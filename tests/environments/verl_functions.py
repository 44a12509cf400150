"""A function tool in verl's own form."""

from __future__ import annotations

from verl.tools.function_tool import function_tool


@function_tool
def double(number: int) -> str:
    """Double a number.

    Args:
        number: What to double.
    """
    return str(2 * number)
