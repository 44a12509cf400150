"""Follows a store that is still being written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from leafe_verl.trees.reader import Folder, Location, arrow_files
from leafe_verl.trees.schema import check_schema


class StoreFollower:
    """Returns the locations of new trees, each once. Only the headers of the record batches are read."""

    def __init__(self, store: Folder) -> None:
        self._store = store
        self._ends: dict[Path, int] = {}
        """File -> offset in bytes behind the last whole record that was returned."""

    def added(self) -> list[list[Location]]:
        """Return the locations of the trees added since the last call, in the order of writing, one list for each file.

        A record that is being written is returned once it is whole. Each batch must hold one tree, as training writes
        them. Raises ValueError for another version of the schema.
        """
        added = [self._added_to(path) for path in arrow_files(self._store)]
        return [locations for locations in added if locations]

    def _added_to(self, path: Path) -> list[Location]:
        locations = []
        for location, end in _whole_records(path, self._ends.get(path, 0)):
            locations.append(location)
            self._ends[path] = end
        return locations


def _whole_records(path: Path, begin: int) -> Iterator[tuple[Location, int]]:
    """Yield each whole record from byte `begin` on, with the offset behind it."""
    try:
        with pa.memory_map(str(path)) as source:
            check_schema(pa.ipc.read_schema(source), path)
            source.seek(max(begin, source.tell()))
            while True:
                location = Location(path, source.tell())
                pa.ipc.read_message(source)
                yield location, source.tell()
    except (EOFError, OSError, pa.ArrowInvalid):  # an incomplete record, or the end mark
        return
