"""Parses the conditions of `--where`: COLUMN OPERATOR VALUE, over the columns of `SUMMARY`.

The operator is one of = != < <= > >=. The value has the column's type: true or false, a number, a text, or an ISO date
for `collected_at` (in UTC unless it says otherwise). `null` stands for a missing value and takes = and != only. A
missing value is neither smaller nor greater than any value.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from leafe_verl.trees.schema import SCHEMA, SUMMARY

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Condition:
    """Compares one column of a tree's summary with a value."""

    column: str
    compare: str
    """Operator, a key of OPERATORS."""
    value: bool | int | float | str | datetime | None

    def holds(self, row: Mapping[str, Any]) -> bool:
        found = row[self.column]
        if self.compare not in ("=", "!=") and (found is None or self.value is None):
            return False
        return OPERATORS[self.compare](found, self.value)


def parse_condition(text: str) -> Condition:
    """Parse a text such as `step>=3`. Raises ValueError that says what was expected."""
    parts = re.fullmatch(r"\s*(\w+)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*", text, re.DOTALL)
    if parts is None:
        raise ValueError(f"condition {text!r}; expected COLUMN OPERATOR VALUE, as in solved=true or 'step>=3'")
    column, compare, value = parts.groups()
    if column not in SUMMARY:
        raise ValueError(f"condition {text!r}: no column {column!r}; expected one of {', '.join(SUMMARY)}")
    if value == "null" and compare not in ("=", "!="):
        raise ValueError(f"condition {text!r}: null takes no order; expected = or !=")
    return Condition(column, compare, None if value == "null" else _value(text, SCHEMA.field(column).type, value))


def columns_of(conditions: Iterable[Condition], others: Iterable[str]) -> tuple[str, ...]:
    """Return the columns that the conditions and the caller need, in the order of SUMMARY."""
    needed = {*others, *(condition.column for condition in conditions)}
    return tuple(name for name in SUMMARY if name in needed)


def all_hold(conditions: Iterable[Condition], row: Mapping[str, Any]) -> bool:
    return all(condition.holds(row) for condition in conditions)


def _value(text: str, kind: pa.DataType, value: str) -> bool | int | float | str | datetime:
    if pa.types.is_boolean(kind):
        if value not in ("true", "false"):
            raise ValueError(f"condition {text!r}: {value!r}; expected true or false")
        return value == "true"
    if pa.types.is_string(kind):
        return value
    read: Callable[[str], int | float | datetime]
    if pa.types.is_timestamp(kind):
        read, expected = _date, "an ISO date, such as 2026-01-31T12:00"
    else:
        read, expected = (int, "an integer") if pa.types.is_integer(kind) else (float, "a number")
    try:
        return read(value)
    except ValueError:
        raise ValueError(f"condition {text!r}: {value!r}; expected {expected}") from None


def _date(text: str) -> datetime:
    date = datetime.fromisoformat(text)
    return date if date.tzinfo else date.replace(tzinfo=UTC)
