"""Reading a store: trees one at a time, or their summaries alone, whatever a killed process left behind."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from leafe_verl.core import ExplorationTree
from leafe_verl.trees.rows import Row, provenance_of, tree_of
from leafe_verl.trees.schema import PATTERN, SCHEMA, SUMMARY, Provenance, check_schema
from leafe_verl.trees.text import map_text, unescape

logger = logging.getLogger(__name__)

UNKNOWN = datetime.max.replace(tzinfo=timezone.utc)
"""Stands for a time that was not stored: later than any other."""


@dataclass(frozen=True)
class Location:
    """Where a tree is stored."""

    path: Path
    offset: int
    """Byte at which its record batch begins."""
    row: int = 0
    """Row of that batch; our own batches have one."""

    def __str__(self) -> str:
        return f"{self.path}, byte {self.offset}"


class TreeKey(NamedTuple):
    """What makes two stored trees the same one."""

    run: str | None
    step: int | None
    task_key: str
    collected_at: datetime | None = None
    """None where `step` is known. Outside training, one task may well have several trees."""


class DamagedFile(Exception):
    """The rest of a file cannot be read: a killed process cut its last record short, or the disk changed it."""

    def __init__(self, path: Path, whole: int, offset: int, reason: object) -> None:
        self.path, self.whole, self.offset = path, whole, offset
        """The file, the records read before the damage, and the byte where the damage begins."""
        super().__init__(f"{path}: unreadable from byte {offset} on, behind {whole} whole records ({reason})")


def files(store: Path) -> list[Path]:
    """The files of a store, in the order in which they are read."""
    return sorted(store.glob(PATTERN))


def records(path: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[Location, pa.RecordBatch]]:
    """Read a file's trees as record batches of one row, of the given columns where the file has them, or of all.

    Only those columns are decompressed and checked. Raises DamagedFile after the last whole record, and ValueError for
    another version of the form.
    """
    whole = offset = 0
    with pa.memory_map(str(path)) as source:
        try:
            schema = pa.ipc.read_schema(source)
            check_schema(schema, path)
            included = [i for i, name in enumerate(schema.names) if columns is None or name in columns]
            source.seek(0)
            stream = pa.ipc.open_stream(source, options=pa.ipc.IpcReadOptions(included_fields=included))
            while True:
                offset = source.tell()
                batch = stream.read_next_batch()
                batch.validate(full=True)
                for row in range(batch.num_rows):
                    yield Location(path, offset, row), batch.slice(row, 1)
                whole += batch.num_rows
        except StopIteration:
            return
        except (OSError, pa.ArrowInvalid) as error:
            raise DamagedFile(path, whole, offset, error) from error


def read_records(store: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[Location, pa.RecordBatch]]:
    """Read a store's trees as `records` does, passing over the rest of a damaged file with a warning."""
    for path in files(store):
        try:
            yield from records(path, columns)
        except DamagedFile as damage:
            logger.warning("%s; they were read, the rest is passed over", damage)


def read_rows(store: Path, columns: Sequence[str] = tuple(SCHEMA.names)) -> Iterator[tuple[Location, Row]]:
    """Read a store's rows as Python values of the given columns, null where a file lacks one; text still escaped."""
    for location, record in read_records(store, columns):
        yield location, row_in(record, columns)


def read_summaries(store: Path) -> Iterator[tuple[Location, Row]]:
    """Read the columns of one short value, without decoding any tree."""
    for location, row in read_rows(store, SUMMARY):
        yield location, map_text(row, unescape)


def read_trees(store: Path) -> Iterator[tuple[ExplorationTree, Provenance]]:
    """Read a store's trees one at a time, in the order of the files' names and of writing.

    Raises ValueError, with the place, for a row that is no tree.
    """
    for location, row in read_rows(store):
        yield _tree(location, row)


def read_tree(location: Location) -> tuple[ExplorationTree, Provenance]:
    """Read the tree at a place that `index` named."""
    return _tree(location, row_in(read_record(location)))


def read_record(location: Location) -> pa.RecordBatch:
    """Read the record batch of one row at a place, all columns of its file included."""
    with pa.memory_map(str(location.path)) as source:
        schema = pa.ipc.read_schema(source)
        source.seek(location.offset)
        try:
            batch = pa.ipc.read_record_batch(pa.ipc.read_message(source), schema)
            batch.validate(full=True)
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(f"{location}: no record ({error})") from error
    return batch.slice(location.row, 1)


def index(store: Path) -> dict[TreeKey, Location]:
    """Where each tree of a store is; of those with the same key, the one that was collected first.

    Reads summaries alone, so that resuming a run costs little; an absent or empty store has no trees.
    """
    return earliest(read_summaries(store))


def earliest(summaries: Iterable[tuple[Location, Row]]) -> dict[TreeKey, Location]:
    """Return where each tree is; of those with the same key, the one that was collected first."""
    found: dict[TreeKey, tuple[datetime, Location]] = {}
    for location, row in summaries:
        key, collected_at = key_of(row), row["collected_at"] or UNKNOWN
        if key not in found or collected_at < found[key][0]:
            found[key] = collected_at, location
    return {key: location for key, (_, location) in found.items()}


def key_of(row: Row) -> TreeKey:
    step = row["step"]
    return TreeKey(row["run"], step, row["task_key"], row["collected_at"] if step is None else None)


def row_in(record: pa.RecordBatch, columns: Sequence[str] = tuple(SCHEMA.names)) -> Row:
    """The given columns of a record of one row, as Python values."""
    (row,) = record.select([name for name in columns if name in record.schema.names]).to_pylist()
    return {name: row.get(name) for name in columns}


def _tree(location: Location, row: Row) -> tuple[ExplorationTree, Provenance]:
    try:
        return tree_of(row), provenance_of(row)
    except ValueError as error:
        raise ValueError(f"{location}: {error}") from error
