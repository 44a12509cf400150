"""Writing: every process appends to a file of its own, and a tree is on disk before `append` returns."""

from __future__ import annotations

import io
import os
import socket
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import pyarrow as pa

from leafe_verl.core import ExplorationTree
from leafe_verl.trees.rows import row_of
from leafe_verl.trees.schema import SCHEMA, Provenance

OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")
END = b"\xff\xff\xff\xff\0\0\0\0"
"""Arrow's end mark of a stream: a message of no length."""


class TreeWriter:
    """Appends trees to a file of its own, so that processes need no lock; a killed one loses at most its last tree.

    One thread at a time may append. The file is made by the first tree.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._file: RecordFile | None = None

    def append(self, tree: ExplorationTree, provenance: Provenance) -> None:
        """Write one tree and wait until the disk has it.

        Raises ValueError for a tree that the schema cannot hold and OSError when the disk does not take it; the file
        holds whole trees either way, and the next one may be appended.
        """
        record = pa.RecordBatch.from_pylist([row_of(tree, provenance)], schema=SCHEMA)
        if self._file is None:
            make_folder(self._store)
            self._file = RecordFile(self._store / new_name(), SCHEMA)
            sync_folder(self._store)
        self._file.append(record)
        self._file.sync()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class RecordFile:
    """One Arrow IPC stream that holds whole record batches whenever a write fails or the process ends."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._head = _stream(schema)[: -len(END)]
        self._file = path.open("xb", buffering=0)
        self._whole = 0
        """Bytes of the file that are the schema and whole batches."""
        self._write(self._head)

    def append(self, record: pa.RecordBatch) -> None:
        """Write a batch, whole or not at all."""
        self._write(_stream(self._schema, record)[len(self._head) : -len(END)])

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write the stream's end mark, without which it is readable all the same."""
        self._write(END)
        self.sync()
        self._file.close()

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            # What the disk took of it would make all that is appended later unreadable.
            self._file.truncate(self._whole)
            self._file.seek(self._whole)
            raise
        self._whole += len(data)


def new_name() -> str:
    return f"trees-{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}.arrow"


def make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's entries: a file's own fsync does not cover its name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stream(schema: pa.Schema, *records: pa.RecordBatch) -> bytes:
    """A whole stream: the schema, the batches, the end mark. Batches depend on nothing that was written before them."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema, options=OPTIONS) as stream:
        for record in records:
            stream.write_batch(record)
    return sink.getvalue()
