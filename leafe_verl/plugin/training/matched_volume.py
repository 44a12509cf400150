"""Lays out the control of rehearsal: successful attempts with the tokens and optimiser steps of what they replace."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from leafe_verl.core.matched_volume import matched_uses
from leafe_verl.plugin.training.prefix_tree import still_shared
from leafe_verl.plugin.training.records import join_batches, select_rows
from leafe_verl.plugin.wire import ExampleRecord

Records = Mapping[str, ExampleRecord]
"""Records of examples by the keys of their rows in TransferQueue."""


def match_volume(
    batch: KVBatchMeta, examples: Records, *, tokens: int, updates: int, seed: str
) -> tuple[KVBatchMeta, dict[str, ExampleRecord]]:
    """Return a batch in which every example stands as often as the control trains on it, and the records of its rows.

    Args:
        batch: A batch that holds the examples' rows; it may hold others.
        examples: All examples of rehearsal that the step's trees give.
        tokens: Number of tokens that one epoch of LEAFE would train on.
        updates: Number of optimiser steps that it would take.
        seed: Seed of the draw of those that are used once more than the others.
    """
    keys = sorted(examples, key=lambda key: examples[key].origin)
    uses = matched_uses([examples[key].trained_tokens for key in keys], tokens, updates, random.Random(seed))
    used = dict(_repeated(examples, dict(zip(keys, uses, strict=True)), _lengths(batch)))
    present = select_rows(batch, [key for key in used if key in examples])
    rounds = [_copied(batch, keys_of_round(used, number), number) for number in range(2, max(uses, default=0) + 1)]
    return join_batches([present, *rounds]), used


def copy_key(key: str, number: int) -> str:
    """Return the key of the `number`-th row of an example; the first one is the example's own row."""
    return key if number == 1 else f"copy{number}-{key}"


def keys_of_round(used: Records, number: int) -> list[str]:
    """Return the keys of the examples that have a `number`-th row."""
    prefix = copy_key("", number)
    return [key.removeprefix(prefix) for key in used if key.startswith(prefix)]


def _lengths(batch: KVBatchMeta) -> dict[str, int]:
    return {key: tag["seq_len"] for key, tag in zip(batch.keys, batch.tags, strict=True)}


def _repeated(
    examples: Records, uses: Mapping[str, int], lengths: Mapping[str, int]
) -> Iterator[tuple[str, ExampleRecord]]:
    """Yield the rows that are used, round by round and in a round in the order of `uses`, each with its record.

    The copies of a round count as trees of their own, since side by side they would fill whole mini-batches with one
    example.
    """
    trees = 1 + max((record.tree for record in examples.values()), default=0)
    for number in range(1, max(uses.values(), default=0) + 1):
        facts = ((examples[key].origin[:2], examples[key].shared_tokens, lengths[key]) for key in uses)
        used = [key for key, times in uses.items() if times >= number]
        for key, shared in zip(used, still_shared(facts, [times >= number for times in uses.values()]), strict=True):
            tree = examples[key].tree + (number - 1) * trees
            yield copy_key(key, number), dataclasses.replace(examples[key], tree=tree, shared_tokens=shared)


def _copied(batch: KVBatchMeta, keys: list[str], number: int) -> KVBatchMeta:
    """Put rows into TransferQueue once more, and return a batch of the copies."""
    originals = select_rows(batch, keys)
    rows = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id)
    names = sorted(rows.keys())
    copies = [{name: rows[place][name] for name in names} for place in range(len(keys))]
    renamed = [copy_key(key, number) for key in keys]
    tq.kv_batch_put(
        keys=renamed,
        partition_id=batch.partition_id,
        fields=list_of_dict_to_tensordict(copies),
        tags=originals.tags,
    )
    return KVBatchMeta(
        partition_id=batch.partition_id, keys=renamed, tags=originals.tags, extra_info=dict(batch.extra_info)
    )
