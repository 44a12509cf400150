"""Stores made of stores, and damaged files made readable. Records are copied as they are, columns unknown to this
version included."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from leafe_verl.trees.conditions import Condition, all_hold
from leafe_verl.trees.listing import require_files
from leafe_verl.trees.reader import (
    DamagedFile,
    Location,
    earliest,
    files,
    read_record,
    read_summaries,
    records,
)
from leafe_verl.trees.schema import PATTERN
from leafe_verl.trees.writer import END, RecordFile, make_folder, new_name, sync_folder


@dataclass(frozen=True)
class Copied:
    """What a copy did, in trees."""

    read: int
    written: int
    duplicates: int


def copy_trees(stores: Sequence[Path], out: Path, conditions: Sequence[Condition] = ()) -> Copied:
    """Write the stores' trees for which all conditions hold to a new store, of as few files as their columns allow.

    Of those with the same run, step and task, the one that was collected first is kept. Raises ValueError when `out`
    holds trees already.
    """
    if files(out):
        raise ValueError(f"{out} holds {PATTERN} already; expected a new folder")
    for store in stores:
        require_files(store)
    summaries = [summary for store in stores for summary in read_summaries(store)]
    chosen = [(location, row) for location, row in summaries if all_hold(conditions, row)]
    kept = earliest(chosen)
    _write(kept.values(), out)
    return Copied(len(summaries), len(kept), len(chosen) - len(kept))


def repair(store: Path) -> list[tuple[Path, int, Path]]:
    """Make every damaged file a file of its whole records; return each with their number and where the rest went.

    The rest is set aside first, beside the file and outside the store's pattern, so that no byte is lost; the file
    itself is replaced at once. No process may be writing to the store.
    """
    require_files(store)
    repaired = []
    for path in files(store):
        try:
            for _ in records(path):
                pass
        except DamagedFile as damage:
            repaired.append((path, damage.whole, _cut(damage)))
    return repaired


def _cut(damage: DamagedFile) -> Path:
    path, content = damage.path, damage.path.read_bytes()
    rest = path.with_name(f"{path.name}.rest")
    _write_whole(rest, content[damage.offset :])
    part = path.with_name(f"{path.name}.part")
    if damage.offset:
        _write_whole(part, content[: damage.offset] + END)
        os.replace(part, path)
    else:  # not even its schema is whole
        path.unlink()
    sync_folder(path.parent)
    return rest


def _write_whole(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _write(locations: Iterable[Location], out: Path) -> None:
    """Copy records; the files take their names once they are whole, so that a killed copy leaves no half a store."""
    make_folder(out)
    opened: dict[bytes, tuple[Path, RecordFile]] = {}
    for location in locations:
        record = read_record(location)
        columns = record.schema.serialize().to_pybytes()
        if columns not in opened:
            path = out / new_name()
            opened[columns] = path, RecordFile(path.with_name(f"{path.name}.part"), record.schema)
        opened[columns][1].append(record)
    for path, file in opened.values():
        file.close()
        os.replace(path.with_name(f"{path.name}.part"), path)
    sync_folder(out)
