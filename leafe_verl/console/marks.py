"""Marks the warnings of this package where they are logged, so that they can be found in the log of a run.

A run has many processes on many machines. Ray brings what they print to the launcher, which captures it in the log. So
the log is where all warnings meet, and the mark tells ours from those of verl, Ray and vLLM. Every process of a run
imports this module, so it must be light.
"""

from __future__ import annotations

import logging
import re

PACKAGE = "leafe_verl"
MARKED = re.compile(rf"{PACKAGE}: (WARNING|ERROR|CRITICAL): (?P<message>.*)")


class MarkingFormatter(logging.Formatter):
    """Formats our warnings as marked lines, and other records as the formatter that it replaces did."""

    def __init__(self, other: logging.Formatter | None) -> None:
        super().__init__()
        self._other = other or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        if record.name.partition(".")[0] != PACKAGE or record.levelno < logging.WARNING:
            return self._other.format(record)
        line = f"{PACKAGE}: {record.levelname}: {' '.join(record.getMessage().split())}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def mark_warnings() -> None:
    """Mark our warnings on the streams that this process logs to. May be called again."""
    for handler in logging.getLogger().handlers:
        # A subclass, as pytest's, is not a stream that anybody reads.
        if type(handler) is logging.StreamHandler and not isinstance(handler.formatter, MarkingFormatter):
            handler.setFormatter(MarkingFormatter(handler.formatter))
