"""Sends what this process and its children print to a file, and keeps the terminal for the console."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO


class Capture:
    """Points the descriptors 1 and 2 to a file. Python, C++ and child processes all print to these."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.offset = 0
        """Bytes that the log held before."""
        self._saved: tuple[int, int] | None = None
        """Copies of the descriptors, which children do not inherit; None if nothing is captured."""

    def start(self, heading: str) -> None:
        """Append the heading to the log, and everything that is printed from now on.

        Raises OSError, and leaves everything as it was, if the log cannot be written.
        """
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self.offset = os.fstat(descriptor).st_size
            os.write(descriptor, heading.encode("utf-8", "replace"))
            _flush()
            self._saved = os.dup(1), os.dup(2)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
        finally:
            os.close(descriptor)
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError):  # a stream of ours need not be one of io's
                stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    def terminal(self) -> TextIO:
        """Return a stream to where this process printed before. A character that it cannot encode becomes `?`."""
        assert self._saved is not None, "nothing is captured"
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        return os.fdopen(os.dup(self._saved[0]), "w", buffering=1, encoding=encoding, errors="replace")

    def release(self) -> None:
        """Print to the terminal again."""
        if self._saved is not None:
            _flush()
            for saved, descriptor in zip(self._saved, (1, 2), strict=True):
                os.dup2(saved, descriptor)
                os.close(saved)
            self._saved = None


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # full, closed, or not there
            stream.flush()
