"""Reads a store: one tree at a time, or its summaries alone. Incomplete files of killed processes are readable."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from leafe_verl.core import ExplorationTree
from leafe_verl.trees.errors import DamagedFile
from leafe_verl.trees.restarts import abandoned_by
from leafe_verl.trees.rows import Row, from_row, provenance_from_row
from leafe_verl.trees.schema import GIVEN, PATTERN, SCHEMA, SUMMARY, Provenance, check_schema
from leafe_verl.trees.text import map_text, unescape

logger = logging.getLogger(__name__)

Folder = str | os.PathLike[str]
"""Path of a store."""

ALL_COLUMNS = (*SCHEMA.names, GIVEN)

KEY = ("run", "step", "task_key", "collected_at", "history_key")
"""Columns that identify a tree; see `tree_key`."""

SCORED = "num_scored"
"""Column with the number of a tree's scored attempts. Files of earlier versions have none."""

CHOICE = (*KEY, SCORED)
"""Columns by which `earliest` chooses."""

ROWS_AT_ONCE = 256
"""Rows of short values that are converted together, which costs a tenth of converting them one by one."""

FILES_KEPT = 64
"""Files that a `batch_reader` keeps open."""

UNKNOWN = datetime.max.replace(tzinfo=UTC)
"""Stands for a time that was not stored. It is later than any other."""


@dataclass(frozen=True, slots=True)
class Location:
    """The place of a stored tree."""

    path: Path
    offset: int
    """Byte at which the tree's record batch begins."""
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
    """Return the files of a store, in the order in which they are read."""
    return sorted(Path(store).glob(PATTERN))


def require_files(store: Folder) -> None:
    """Raise ValueError unless the folder is a store."""
    if not arrow_files(store):
        raise ValueError(f"{store}: no store; expected a folder with {PATTERN}")


def batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Read the record batches of an Arrow file, each with the byte at which it begins.

    `columns` restricts what is decoded and checked; None reads all columns. Raises DamagedFile after the last
    complete batch, and ValueError for another version of the schema.
    """
    whole = offset = 0
    with pa.memory_map(str(path)) as source:
        try:
            schema = pa.ipc.read_schema(source)
            check_schema(schema, path)
            included = [i for i, name in enumerate(schema.names) if columns is None or name in columns]
            source.seek(0)
            # Most batches hold one tree, which is no work to be shared out.
            options = pa.ipc.IpcReadOptions(included_fields=included, use_threads=False)
            stream = pa.ipc.open_stream(source, options=options)
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


def read_file(path: Path, columns: Sequence[str] = ALL_COLUMNS) -> Iterator[tuple[Location, Row]]:
    """Read the trees of a file as rows of the given columns. Raises DamagedFile and ValueError as `batches` does."""
    group: list[tuple[int, pa.RecordBatch]] = []
    size = ROWS_AT_ONCE if set(columns) <= set(SUMMARY) else 1
    try:
        for found in batches(path, columns):
            group.append(found)
            if len(group) == size:
                yield from _to_rows(path, group, columns)
                group = []
    except DamagedFile:
        yield from _to_rows(path, group, columns)
        raise
    yield from _to_rows(path, group, columns)


def _to_rows(
    path: Path, group: Sequence[tuple[int, pa.RecordBatch]], columns: Sequence[str]
) -> Iterator[tuple[Location, Row]]:
    """Convert batches of one file, each with the byte at which it begins."""
    if not group:
        return
    places = [Location(path, offset, row) for offset, batch in group for row in range(batch.num_rows)]
    rows = pa.Table.from_batches([batch for _, batch in group]).to_pylist()
    for place, row in zip(places, rows, strict=True):
        yield place, {name: row.get(name) for name in columns}


def read_rows(store: Folder, columns: Sequence[str] = ALL_COLUMNS) -> Iterator[tuple[Location, Row]]:
    """Read a store's trees as rows of the given columns, null where a file lacks one. Text is still escaped.

    The unreadable end of a damaged file is skipped with a warning.
    """
    for path in arrow_files(store):
        try:
            yield from read_file(path, columns)
        except DamagedFile as damage:
            logger.warning("%s; the rest of the file is skipped", damage)


def read_summaries(store: Folder, columns: Sequence[str] = SUMMARY) -> Iterator[tuple[Location, Row]]:
    """Read columns with one short value, without decoding any tree. Fewer columns take less time."""
    for location, row in read_rows(store, columns):
        yield location, map_text(row, unescape)


def read_standing(store: Folder, columns: Sequence[str] = CHOICE) -> Iterator[tuple[Location, Row]]:
    """Read summaries, with at least the columns CHOICE, of the trees that their runs have not given up since.

    What a run that was sent back has given up, restarts.py knows.
    """
    is_abandoned = abandoned_by(store)
    return (each for each in read_summaries(store, columns) if not is_abandoned(each[1]))


def read_chosen(store: Folder, columns: Sequence[str]) -> Iterator[tuple[Location, Row]]:
    """Read summaries of the trees that `index` returns: neither what a run has given up nor duplicates."""
    chosen = {*index(store).values()}
    return (each for each in read_summaries(store, columns) if each[0] in chosen)


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


BatchReader = Callable[[Path, int], pa.RecordBatch]
"""Reads the record batch that begins at a byte of an Arrow file, as `read_batch` does."""


def read_batch(path: Path, offset: int) -> pa.RecordBatch:
    """Read the record batch that begins at a byte of an Arrow file. Raises ValueError if there is none."""
    return _read_from(*_open(path), path, offset)


def batch_reader(kept: int = 1) -> BatchReader:
    """Return a `read_batch` for one thread that reads many trees: it keeps files open, and the last `kept` batches."""
    open_file = functools.lru_cache(FILES_KEPT)(_open)

    @functools.lru_cache(kept)
    def read(path: Path, offset: int) -> pa.RecordBatch:
        return _read_from(*open_file(path), path, offset)

    return read


def _open(path: Path) -> tuple[pa.NativeFile, pa.Schema]:
    source = pa.memory_map(str(path))
    return source, pa.ipc.read_schema(source)


def _read_from(source: pa.NativeFile, schema: pa.Schema, path: Path, offset: int) -> pa.RecordBatch:
    source.seek(offset)
    try:
        batch = pa.ipc.read_record_batch(pa.ipc.read_message(source), schema)
        batch.validate(full=True)
    except (OSError, pa.ArrowInvalid) as error:
        # A process that still writes has put its last trees into one batch since they were found.
        raise ValueError(
            f"{Location(path, offset)}: no record ({error}); where something is still being written there, the same "
            "command works again"
        ) from error
    return batch


def read_record(location: Location, read: BatchReader = read_batch) -> pa.RecordBatch:
    """Read the tree at a location as a record batch of one row, with all columns of its file."""
    return read(location.path, location.offset).slice(location.row, 1)


def read_tree(location: Location, read: BatchReader = read_batch) -> tuple[ExplorationTree, Provenance]:
    """Read the tree at a location that `index` or `read_summaries` returned; of many trees, by one `batch_reader`."""
    (row,) = read(location.path, location.offset).slice(location.row, 1).to_pylist()
    return _parse(location, row)


def index(store: Folder) -> dict[TreeKey, Location]:
    """Return where each tree of a store is that its run has not given up, as `earliest` chooses.

    Reads few columns, so that a run resumes quickly. A missing or empty store has no trees.
    """
    return earliest(read_standing(store))


def earliest(summaries: Iterable[tuple[Location, Row]]) -> dict[TreeKey, Location]:
    """Return where each tree is, for rows with the columns CHOICE.

    Of trees with the same key, the one that was collected first counts. One without a scored attempt, as an outage
    leaves them, counts if there is no other, since its run has collected it again.
    """
    found: dict[TreeKey, Location] = {}
    ranks: dict[TreeKey, tuple[bool, datetime]] = {}
    for location, row in summaries:
        key, rank = tree_key(row), (row[SCORED] == 0, row["collected_at"] or UNKNOWN)
        if key not in found or rank < ranks[key]:
            found[key], ranks[key] = location, rank
    return found


def tree_key(row: Row) -> TreeKey:
    """Return the key of a row's tree."""
    step = row["step"]
    collected_at = row["collected_at"] if step is None else None
    # A store holds few names many times: each is kept once.
    run = row["run"] and sys.intern(row["run"])
    return TreeKey(run, step, sys.intern(row["task_key"]), collected_at, row.get("history_key"))


def join_trees(trees: Sequence[ExplorationTree]) -> ExplorationTree:
    """Return the trees of one task and one given history as one tree, as the attempts of an evaluation are shown."""
    joined = ExplorationTree(trees[0].task, trees[0].given)
    for tree in trees:
        first = len(joined.attempts)
        joined.reflections += [(first + attempt, reflection) for attempt, reflection in tree.reflections]
        for attempt in tree.attempts:
            branch = attempt.branch and dataclasses.replace(attempt.branch, parent=first + attempt.branch.parent)
            joined.add(dataclasses.replace(attempt, branch=branch))
        for recovery in tree.recovery_targets or ():
            at, source = first + recovery.attempt, first + recovery.source
            moved = dataclasses.replace(recovery, attempt=at, source=source)
            joined.recovery_targets = [*(joined.recovery_targets or ()), moved]
    return joined


def _parse(location: Location, row: Row) -> tuple[ExplorationTree, Provenance]:
    try:
        return from_row(row), provenance_from_row(row)
    except ValueError as error:
        raise ValueError(f"{location}: {error}") from error
