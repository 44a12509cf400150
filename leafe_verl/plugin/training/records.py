"""Reads the records of a TransferQueue batch, and selects and joins its rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import transfer_queue as tq
from transfer_queue import KVBatchMeta

from leafe_verl.plugin.wire import ExampleRecord, Record, TreeRecord, read_record


def read_records(batch: KVBatchMeta) -> dict[str, Record | None]:
    """Return the record of each row, or None for rows without one, by the row's key in the order of the batch."""
    rows = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
    return {key: read_record(extra) for key, extra in zip(batch.keys, rows["extra_fields"], strict=True)}


def tree_records(batch: KVBatchMeta) -> list[TreeRecord]:
    """Return the summaries of trees in the batch."""
    return [record for record in read_records(batch).values() if isinstance(record, TreeRecord)]


def split_records(batch: KVBatchMeta) -> tuple[list[TreeRecord], dict[str, ExampleRecord]]:
    """Return the summaries of trees in the batch, and the records of its SFT examples by the keys of their rows."""
    records = read_records(batch)
    trees = [record for record in records.values() if isinstance(record, TreeRecord)]
    return trees, {key: record for key, record in records.items() if isinstance(record, ExampleRecord)}


def select_rows(batch: KVBatchMeta, keys: Iterable[str]) -> KVBatchMeta:
    """Return a batch of the rows that `keys` names, in that order."""
    tags, keys = dict(zip(batch.keys, batch.tags, strict=True)), list(keys)
    return KVBatchMeta(
        partition_id=batch.partition_id,
        keys=keys,
        tags=[tags[key] for key in keys],
        extra_info=dict(batch.extra_info),
    )


def join_batches(batches: Sequence[KVBatchMeta]) -> KVBatchMeta:
    """Return one batch with the rows of all batches, in order."""
    return KVBatchMeta(
        partition_id=batches[0].partition_id,
        keys=[key for batch in batches for key in batch.keys],
        tags=[tag for batch in batches for tag in batch.tags],
        extra_info=dict(batches[0].extra_info),
    )
