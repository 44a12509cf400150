"""Copies trees into new stores and repairs damaged files. Records are copied unchanged, including unknown columns."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from leafe_verl.files import sync_folder
from leafe_verl.trees.conditions import Condition, all_hold, columns_of
from leafe_verl.trees.errors import DamagedFile
from leafe_verl.trees.reader import (
    CHOICE,
    Folder,
    Location,
    arrow_files,
    batch_reader,
    earliest,
    read_file,
    read_record,
    read_standing,
    require_files,
)
from leafe_verl.trees.rows import Row
from leafe_verl.trees.schema import layout
from leafe_verl.trees.writer import COMPACTED, END, RecordFile, make_folder, new_name, write_whole

WITHOUT_TOKENS = [layout(tokens=False, given=given) for given in (False, True)]


@dataclass(frozen=True)
class CopyCounts:
    """Numbers of trees in a copy."""

    read: int
    written: int
    duplicates: int


def copy_trees(stores: Sequence[Folder], out: Folder, conditions: Sequence[Condition] = ()) -> CopyCounts:
    """Write the stores' trees for which all conditions hold to a new store, one file for each set of columns.

    Of trees with the same run, step and task, one is kept, as `reader.earliest` chooses, and none that its run has
    given up. Raises ValueError if `out` is a file, or a folder that is not empty.
    """
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"{out} is a file; expected a new folder")
    if present := sorted(Path(out).glob("*")):
        raise ValueError(f"{out} already holds {present[0].name}; expected a new folder")
    for store in stores:
        require_files(store)
    counts: Counter[str] = Counter()
    kept = earliest(_chosen(stores, conditions, counts))
    _write(kept.values(), Path(out))
    return CopyCounts(counts["read"], len(kept), counts["chosen"] - len(kept))


def _chosen(
    stores: Sequence[Folder], conditions: Sequence[Condition], counts: Counter[str]
) -> Iterator[tuple[Location, Row]]:
    """Yield the summaries of the trees for which all conditions hold; count them, and all that were read."""
    columns = columns_of(conditions, CHOICE)
    for store in stores:
        for location, row in read_standing(store, columns):
            counts["read"] += 1
            if all_hold(conditions, row):
                counts["chosen"] += 1
                yield location, row


def repair(store: Folder) -> list[tuple[Path, int, Path]]:
    """Cut every damaged file to its whole records. Return each file, its number of whole records, and the rest's file.

    The rest is first saved beside the file, under a name that is not part of the store, so that no byte is lost; then
    the file is replaced atomically. No process may be writing to the store.
    """
    require_files(store)
    repaired = []
    for path in arrow_files(store):
        try:
            for _ in read_file(path):
                pass
        except DamagedFile as damage:
            repaired.append((path, damage.whole, _cut(damage)))
    return repaired


def _cut(damage: DamagedFile) -> Path:
    path, content = damage.path, damage.path.read_bytes()
    rest = _free_path(path.with_name(f"{path.name}.rest"))
    write_whole(rest, content[damage.offset :])
    part = path.with_name(f"{path.name}.part")
    if damage.offset:
        write_whole(part, content[: damage.offset] + END)
        os.replace(part, path)
    else:  # not even the schema is whole
        path.unlink()
    sync_folder(path.parent)
    return rest


def _free_path(wanted: Path) -> Path:
    """Return the path, with a number behind it if an earlier repair has taken it."""
    numbered = (wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([wanted], numbered) if not path.exists())


def _write(locations: Iterable[Location], out: Path) -> None:
    """Copy records. The files get their names once all are whole: a killed copy does not leave half a store."""
    make_folder(out)
    copies: dict[bytes, _Copy] = {}
    read = batch_reader()
    for location in locations:
        record = read_record(location, read)
        columns = record.schema.serialize().to_pybytes()
        if columns not in copies:
            copies[columns] = _Copy(out / new_name(), record.schema)
        copies[columns].append(record)
    for copy in copies.values():
        copy.close()
    for copy in copies.values():
        copy.name()
    sync_folder(out)


class _Copy:
    """Writes a file of a new store. Trees without tokens are small and share a record batch."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._part = path, path.with_name(f"{path.name}.part")
        self._file = RecordFile(self._part, schema)
        self._batch: list[pa.RecordBatch] = []
        self._size = COMPACTED if any(map(schema.equals, WITHOUT_TOKENS)) else 1

    def append(self, record: pa.RecordBatch) -> None:
        self._batch.append(record)
        if len(self._batch) == self._size:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.close()

    def name(self) -> None:
        """Make the file, which is whole, part of the store."""
        os.replace(self._part, self._path)

    def _flush(self) -> None:
        for batch in pa.Table.from_batches(self._batch, self._file.schema).combine_chunks().to_batches():
            self._file.append(batch)
        self._batch = []
