"""Paths as one types them in a shell."""

from __future__ import annotations

import os
import shlex
from pathlib import Path


def shown(path: Path) -> str:
    """Return a path as one types it here: relative if it is below the present folder."""
    absolute = Path(os.path.abspath(path))
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def quoted(path: Path) -> str:
    """Return `shown(path)`, quoted for the shell."""
    return shlex.quote(shown(path))
