"""Reads a store: one tree at a time, or the summary columns alone. Incomplete files of killed processes are readable.

A store may also hold the JSON lines that evaluations wrote before they wrote trees; see legacy_attempts.py.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from leafe_verl.core import ExplorationTree
from leafe_verl.trees import legacy_attempts
from leafe_verl.trees.errors import DamagedFile
from leafe_verl.trees.rows import Row, from_row, provenance_from_row
from leafe_verl.trees.schema import GIVEN, PATTERN, SCHEMA, SUMMARY, TEXT_SCHEMA, Provenance, check_schema
from leafe_verl.trees.text import map_text, unescape

logger = logging.getLogger(__name__)

Folder = str | os.PathLike[str]
"""Path of a store."""

ALL_COLUMNS = (*SCHEMA.names, GIVEN)

UNKNOWN = datetime.max.replace(tzinfo=timezone.utc)
"""Stands for a time that was not stored. It is later than any other."""


@dataclass(frozen=True)
class Location:
    """The place of a stored tree."""

    path: Path
    offset: int
    """Byte at which the tree's record batch, or its line of JSON, begins."""
    row: int = 0
    """Row within the record batch."""

    def __str__(self) -> str:
        return f"{self.path}, byte {self.offset}"


class TreeKey(NamedTuple):
    """Identifies a tree. Two stored trees with the same key are duplicates."""

    run: str | None
    step: int | None
    task_key: str
    collected_at: datetime | None = None
    """None if `step` is known. Outside training, one task may have several trees."""
    history_key: str | None = None
    """Name of the tree's given steps; None if there are none."""


def arrow_files(store: Folder) -> list[Path]:
    """Return the Arrow files of a store, in the order in which they are read."""
    return sorted(Path(store).glob(PATTERN))


def files(store: Folder) -> list[Path]:
    """Return all files of a store, in the order in which they are read."""
    return [*sorted(Path(store).glob(legacy_attempts.PATTERN)), *arrow_files(store)]


def batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Read the record batches of an Arrow file, each with the byte at which it begins.

    `columns` restricts what is decompressed and checked; None reads all columns. Raises DamagedFile after the last
    complete batch, and ValueError for another version of the schema.
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
                yield offset, batch
                whole += batch.num_rows
        except StopIteration:
            return
        except (OSError, pa.ArrowInvalid) as error:
            raise DamagedFile(path, whole, offset, error) from error


def records(path: Path) -> Iterator[tuple[Location, pa.RecordBatch]]:
    """Read the trees of an Arrow file, each as a record batch of one row. Raises as `batches` does."""
    for offset, batch in batches(path):
        for row in range(batch.num_rows):
            yield Location(path, offset, row), batch.slice(row, 1)


def read_file(path: Path, columns: Sequence[str] = ALL_COLUMNS) -> Iterator[tuple[Location, Row]]:
    """Read the trees of a file as rows of the given columns. Raises DamagedFile and ValueError as `batches` does."""
    if legacy_attempts.is_legacy(path):
        for offset, row in legacy_attempts.read_lines(path):
            yield Location(path, offset), {name: row.get(name) for name in columns}
        return
    for offset, batch in batches(path, columns):
        for number, row in enumerate(batch.to_pylist()):
            yield Location(path, offset, number), {name: row.get(name) for name in columns}


def read_rows(store: Folder, columns: Sequence[str] = ALL_COLUMNS) -> Iterator[tuple[Location, Row]]:
    """Read a store's trees as rows of the given columns, null where a file lacks one. Text is still escaped.

    The unreadable end of a damaged file is skipped with a warning.
    """
    for path in files(store):
        try:
            yield from read_file(path, columns)
        except DamagedFile as damage:
            logger.warning("%s; the rest of the file is skipped", damage)


def read_summaries(store: Folder) -> Iterator[tuple[Location, Row]]:
    """Read the columns with one short value, without decoding any tree."""
    for location, row in read_rows(store, SUMMARY):
        yield location, map_text(row, unescape)


def read_trees(store: Folder) -> Iterator[tuple[ExplorationTree, Provenance]]:
    """Read a store's trees one at a time, in the order of the file names and of writing.

    Raises ValueError, with the location, for a row that is not a tree.
    """
    for location, row in read_rows(store):
        yield _parse(location, row)


def read_counted_trees(store: Folder) -> Iterator[tuple[ExplorationTree, Provenance, dict[str, int]]]:
    """Read a store's trees as `read_trees` does, each with the counts that it was stored with; empty without any."""
    for location, row in read_rows(store):
        yield (*_parse(location, row), json.loads(row["counts"] or "{}"))


def read_record(location: Location) -> pa.RecordBatch:
    """Read the tree at a location as a record batch of one row, with all columns of its file."""
    if legacy_attempts.is_legacy(location.path):
        row = legacy_attempts.read_line(location.path, location.offset)
        return pa.RecordBatch.from_pylist([row], schema=TEXT_SCHEMA)
    return read_batch(location.path, location.offset).slice(location.row, 1)


def read_batch(path: Path, offset: int) -> pa.RecordBatch:
    """Read the record batch that begins at a byte of an Arrow file."""
    with pa.memory_map(str(path)) as source:
        schema = pa.ipc.read_schema(source)
        source.seek(offset)
        try:
            batch = pa.ipc.read_record_batch(pa.ipc.read_message(source), schema)
            batch.validate(full=True)
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(f"{Location(path, offset)}: no record ({error})") from error
    return batch


def read_tree(
    location: Location, read: Callable[[Path, int], pa.RecordBatch] = read_batch
) -> tuple[ExplorationTree, Provenance]:
    """Read the tree at a location that `index` or `read_summaries` returned.

    A caller that reads many trees of an evaluation may pass a cached `read_batch`, since they share record batches.
    """
    if legacy_attempts.is_legacy(location.path):
        return _parse(location, legacy_attempts.read_line(location.path, location.offset))
    (row,) = read(location.path, location.offset).slice(location.row, 1).to_pylist()
    return _parse(location, row)


def index(store: Folder) -> dict[TreeKey, Location]:
    """Return where each tree of a store is. Of trees with the same key, the one that was collected first counts.

    Reads the summary columns alone, so that a run resumes quickly. A missing or empty store has no trees.
    """
    return earliest(read_summaries(store))


def earliest(summaries: Iterable[tuple[Location, Row]]) -> dict[TreeKey, Location]:
    """Return where each tree is. Of trees with the same key, the one that was collected first counts."""
    found: dict[TreeKey, tuple[datetime, Location]] = {}
    for location, row in summaries:
        key, collected_at = tree_key(row), row["collected_at"] or UNKNOWN
        if key not in found or collected_at < found[key][0]:
            found[key] = collected_at, location
    return {key: location for key, (_, location) in found.items()}


def tree_key(row: Row) -> TreeKey:
    """Return the key of a row's tree."""
    step = row["step"]
    collected_at = row["collected_at"] if step is None else None
    return TreeKey(row["run"], step, row["task_key"], collected_at, row.get("history_key"))


def join_trees(trees: Sequence[ExplorationTree]) -> ExplorationTree:
    """Return the trees of one task and one given history as one tree, as the attempts of an evaluation are shown.

    The task is the last one's, since trees of an earlier version come first and have no instruction.
    """
    joined = ExplorationTree(trees[-1].task, trees[-1].given)
    for tree in trees:
        first = len(joined.attempts)
        joined.reflections += [(first + attempt, reflection) for attempt, reflection in tree.reflections]
        for attempt in tree.attempts:
            branch = attempt.branch and dataclasses.replace(attempt.branch, parent=first + attempt.branch.parent)
            joined.add(dataclasses.replace(attempt, branch=branch))
        for recovery in tree.recoveries or ():
            at, source = first + recovery.attempt, first + recovery.source
            moved = dataclasses.replace(recovery, attempt=at, source=source)
            joined.recoveries = [*(joined.recoveries or ()), moved]
    return joined


def _parse(location: Location, row: Row) -> tuple[ExplorationTree, Provenance]:
    try:
        return from_row(row), provenance_from_row(row)
    except ValueError as error:
        raise ValueError(f"{location}: {error}") from error
