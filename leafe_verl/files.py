"""Writing files that others read meanwhile, and that must outlive a kill or a loss of power."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4


def replace_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a file in one step: a reader, or what is left by a kill, has the old text or the new one.

    So does what is left by a loss of power, if `durable`, which waits for the disk. Raises OSError if it cannot be
    written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}-{uuid4().hex[:8]}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, and wait until it is on disk. Raises OSError if it cannot be written."""
    with path.open("ab+") as file:
        # A killed process may have left half a line, to which this one must not be joined.
        file.seek(-1 if file.tell() else 0, os.SEEK_END)
        file.write((b"" if file.read(1) in (b"", b"\n") else b"\n") + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the folder's entries are on disk. A file's own fsync does not cover its name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
