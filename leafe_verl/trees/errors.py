"""The error that readers raise for incomplete files."""

from __future__ import annotations

from pathlib import Path


class DamagedFile(Exception):
    """The rest of a file is unreadable: a killed process cut the last record short, or the disk changed it."""

    def __init__(self, path: Path, whole: int, offset: int, reason: object) -> None:
        """`whole` is the number of records before the damage, `offset` the byte at which the damage begins."""
        self.path, self.whole, self.offset = path, whole, offset
        super().__init__(f"{path}: unreadable from byte {offset} on, behind {whole} whole records ({reason})")
