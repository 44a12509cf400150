"""A store that is still being written: what has been added since one last looked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from leafe_verl.trees.reader import Location, files
from leafe_verl.trees.schema import check_schema


class StoreFollower:
    """Names the trees that a store's writers have added, each once; reads their messages' headers alone."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._ends: dict[Path, int] = {}
        """File -> byte behind its last whole record that was named."""

    def added(self) -> list[list[Location]]:
        """Return where the new trees are: a list for each file that has some, in the order of writing.

        A record that is being written is named when it is whole. Expects batches of one tree, as a run writes them.
        Raises ValueError for another version of the form.
        """
        added = [self._added_to(path) for path in files(self._store)]
        return [locations for locations in added if locations]

    def _added_to(self, path: Path) -> list[Location]:
        locations = []
        for location, end in _whole_records(path, self._ends.get(path, 0)):
            locations.append(location)
            self._ends[path] = end
        return locations


def _whole_records(path: Path, begin: int) -> Iterator[tuple[Location, int]]:
    """Each record from byte `begin` on, with the byte behind it; up to the first that is not whole, or the end mark."""
    try:
        with pa.memory_map(str(path)) as source:
            check_schema(pa.ipc.read_schema(source), path)
            source.seek(max(begin, source.tell()))
            while True:
                location = Location(path, source.tell())
                pa.ipc.read_message(source)
                yield location, source.tell()
    except (EOFError, OSError, pa.ArrowInvalid):
        return
