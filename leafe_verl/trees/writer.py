"""Writes trees. Every process appends to its own file, and a tree is on disk before `append` returns."""

from __future__ import annotations

import io
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import pyarrow as pa

from leafe_verl.core import ExplorationTree
from leafe_verl.files import sync_folder
from leafe_verl.trees.rows import to_row
from leafe_verl.trees.schema import Provenance, layout

logger = logging.getLogger(__name__)

COMPRESSED = pa.ipc.IpcWriteOptions(compression="zstd")
PLAIN = pa.ipc.IpcWriteOptions()
SMALL = 64 * 1024
"""Bytes below which a record batch is not compressed. Arrow compresses each of its hundred buffers alone, so that zstd
makes a tree of 25 KB half as large, and reading it fifty times as slow."""
END = b"\xff\xff\xff\xff\0\0\0\0"
"""Arrow's end mark of a stream: a message of length zero."""
COMPACTED = 32
"""Trees without tokens in one record batch. A batch of one such tree is ten times as large as its share of a batch."""


class TreeWriter:
    """Appends trees to a file of its own, so that processes need no lock. A killed process loses at most its last tree.

    Only one thread may append at a time. The first tree creates the file. The trees of a file all have tokens or all
    have none, and they all begin at given steps or all at the task's start.
    """

    def __init__(self, store: str | os.PathLike[str]) -> None:
        self._store = Path(store)
        self._file: RecordFile | None = None
        self._single: list[pa.RecordBatch] = []
        """Trees without tokens at the end of the file, each in a batch of its own."""

    def append(self, tree: ExplorationTree, provenance: Provenance, counts: Mapping[str, int] | None = None) -> None:
        """Write one tree and wait until it is on disk. `counts` are those of core.statistics; None: not stored.

        Raises ValueError for a tree that the schema cannot hold, and OSError if the disk does not take it. Either way
        the file still holds whole trees, and the next one may be appended.
        """
        schema = layout(tokens=provenance.has_tokens, given=bool(tree.given))
        record = pa.RecordBatch.from_pylist([to_row(tree, provenance, counts)], schema=schema)
        self._file = self._file or self._new_file(schema)
        if schema != self._file.schema:
            raise ValueError(
                "a writer's trees must all have tokens or all have none, and begin at given steps all or none; use "
                "another writer"
            )
        try:
            self._file.append(record)
            self._file.sync()
        except OSError:
            if self._file.torn:
                self._file, self._single = None, []
            raise
        if not provenance.has_tokens:
            self._compact(record)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file, self._single = None, []

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _new_file(self, schema: pa.Schema) -> RecordFile:
        make_folder(self._store)
        file = RecordFile(self._store / new_name(), schema)
        sync_folder(self._store)
        return file

    def _compact(self, record: pa.RecordBatch) -> None:
        """Make one batch of the last trees once they are many enough. They are on disk already, so it may fail."""
        assert self._file is not None
        self._single.append(record)
        if len(self._single) == COMPACTED:
            try:
                self._file.merge_last(self._single)
            except OSError as error:
                logger.warning("%s: the last trees stay in batches of one (%s)", self._file.path, error)
            self._single = []


class RecordFile:
    """One Arrow IPC stream that holds whole record batches at any time, even if a write fails or the process ends."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self._head = _stream(schema)[: -len(END)]
        self._file = path.open("xb", buffering=0)
        self.torn = False
        """Whether nobody knows what the disk has of the last batch, so that nothing may be written behind it."""
        self._ends: list[int] = []
        """Offsets in bytes behind the schema and behind each whole batch."""
        try:
            self._write(self._head)
        except OSError:  # readers would warn of an empty file, and each attempt to begin one leaves another
            self._file.close()
            path.unlink(missing_ok=True)
            raise

    def append(self, record: pa.RecordBatch) -> None:
        """Write a batch, whole or not at all."""
        self._write(_stream(self.schema, record)[len(self._head) : -len(END)])

    def merge_last(self, records: list[pa.RecordBatch]) -> None:
        """Replace the last batches, which are `records`, with one batch of all their rows.

        The file is replaced atomically, so that a killed process leaves the old one or the new one. Locations of the
        trees in these batches, but for the first, are no longer valid.
        """
        (merged,) = pa.Table.from_batches(records).combine_chunks().to_batches()
        kept = self._ends[: -len(records)]
        part = self.path.with_name(f"{self.path.name}.part")
        part.unlink(missing_ok=True)
        compact = RecordFile(part, self.schema)
        compact._write(self.path.read_bytes()[len(self._head) : kept[-1]])
        compact.append(merged)
        compact.sync()
        os.replace(part, self.path)
        # From here on the old file has no name, and what is written to it would be lost.
        self._file.close()
        self._file, self._ends = compact._file, [*kept, compact._ends[-1]]
        sync_folder(self.path.parent)

    def sync(self) -> None:
        self.torn = True
        os.fsync(self._file.fileno())
        self.torn = False

    def close(self) -> None:
        """Write the stream's end mark. The file is readable without it."""
        self._write(END)
        self.sync()
        self._file.close()

    def _write(self, data: bytes) -> None:
        whole = self._ends[-1] if self._ends else 0
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            # What the disk took of it would make everything appended later unreadable.
            self.torn = True
            self._file.truncate(whole)
            self._file.seek(whole)
            self.torn = False
            raise
        self._ends.append(whole + len(data))


def new_name() -> str:
    return f"trees-{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}.arrow"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file and wait until its content is on disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)


def _stream(schema: pa.Schema, *records: pa.RecordBatch) -> bytes:
    """Return a whole stream: schema, batches, end mark. A batch does not depend on what was written before it."""
    sink = io.BytesIO()
    options = PLAIN if sum(record.nbytes for record in records) < SMALL else COMPRESSED
    with pa.ipc.new_stream(sink, schema, options=options) as stream:
        for record in records:
            stream.write_batch(record)
    return sink.getvalue()
