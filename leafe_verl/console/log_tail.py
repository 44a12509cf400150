"""Finds our own warnings in the log of a run as it grows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from leafe_verl.console.marks import MARKED
from leafe_verl.trees.text import visible

SHOWN = 8
"""Maximum number of warnings that are shown. The log has them all."""
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")
"""What differs between two warnings of one kind: names of tasks, and numbers."""


class LogTail:
    """Reads a growing log, each line once, and picks our warnings: one of each kind."""

    def __init__(self, log: Path, offset: int) -> None:
        self._log, self._offset = log, offset
        self._kinds: set[str] = set()
        self.hidden = 0
        """Number of warnings so far that were not returned."""

    def new_warnings(self) -> Iterator[str]:
        """Yield the new warnings of new kinds. Raises OSError if the log cannot be read."""
        for line in self._new_lines():
            if marked := MARKED.search(_CONTROL.sub("", line)):
                kind = _VARYING.sub("", marked["message"])
                if kind in self._kinds or len(self._kinds) >= SHOWN:
                    self.hidden += 1
                    continue
                self._kinds.add(kind)
                yield visible(marked["message"])

    def _new_lines(self) -> Iterator[str]:
        with self._log.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                yield line.decode("utf-8", "replace").rstrip()
