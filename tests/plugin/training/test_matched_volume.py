"""The control of rehearsal: which rows are trained on how often, and what they share with the row before."""

from __future__ import annotations

import pytest

pytest.importorskip("verl", reason="verl is not installed")

import torch
from tensordict import NonTensorStack, TensorDict
from transfer_queue import KVBatchMeta

from leafe_verl.core import Kind
from leafe_verl.plugin.training import matched_volume
from leafe_verl.plugin.training.matched_volume import match_volume
from leafe_verl.plugin.wire import ExampleRecord

LENGTHS = {"a0": 30, "a1": 40, "b0": 50}


class FakeQueue:
    """TransferQueue's rows, by their keys."""

    def __init__(self):
        self.rows = {key: {"input_ids": torch.arange(length), "extra": {"of": key}} for key, length in LENGTHS.items()}

    def kv_batch_get(self, keys, partition_id):
        rows = [self.rows[key] for key in keys]
        ids = torch.nested.as_nested_tensor([row["input_ids"] for row in rows], layout=torch.jagged)
        extra = NonTensorStack(*(row["extra"] for row in rows))
        return TensorDict({"input_ids": ids, "extra": extra}, batch_size=len(keys))

    def kv_batch_put(self, keys, partition_id, fields, tags):
        for place, key in enumerate(keys):
            self.rows[key] = {"input_ids": fields[place]["input_ids"], "extra": fields[place]["extra"]}


@pytest.fixture
def queue(monkeypatch):
    fake = FakeQueue()
    monkeypatch.setattr(matched_volume, "tq", fake)
    return fake


def matched(tokens, updates=1):
    batch = KVBatchMeta(
        partition_id="train",
        keys=["tree", *LENGTHS],
        tags=[{"seq_len": 2}, *({"seq_len": n} for n in LENGTHS.values())],
    )
    examples = {
        "a0": ExampleRecord(Kind.REHEARSAL, "a", tree=0, place=0, shared_tokens=0, trained_tokens=10),
        "a1": ExampleRecord(Kind.REHEARSAL, "a", tree=0, place=1, shared_tokens=7, trained_tokens=10),
        "b0": ExampleRecord(Kind.REHEARSAL, "b", tree=0, place=0, shared_tokens=0, trained_tokens=10),
    }
    return match_volume(batch, examples, tokens=tokens, updates=updates, seed="0")


def test_every_example_stands_as_often_as_it_is_trained_on(queue):
    batch, records = matched(tokens=80)
    assert sorted(batch.keys) == sorted(records) and len(records) == 8
    for key in batch.keys:
        original = key.rpartition("-")[2]
        assert queue.rows[key]["input_ids"].tolist() == list(range(LENGTHS[original]))
        assert queue.rows[key]["extra"] == {"of": original}
    assert {tag["seq_len"] for tag in batch.tags} == {30, 40, 50}
    assert sum(record.trained_tokens for record in records.values()) == 80


def test_copies_are_trees_of_their_own_so_that_no_mini_batch_is_one_example(queue):
    _, records = matched(tokens=60)
    assert [(key, record.origin[:2], record.shared_tokens) for key, record in records.items()] == [
        *[("a0", ("a", 0), 0), ("a1", ("a", 0), 7), ("b0", ("b", 0), 0)],
        *[("copy2-a0", ("a", 1), 0), ("copy2-a1", ("a", 1), 7), ("copy2-b0", ("b", 1), 0)],
    ]


def test_what_is_not_drawn_is_left_out(queue):
    batch, records = matched(tokens=10)
    assert len(batch) == len(records) == 1
    assert batch.keys[0] in LENGTHS


def test_every_update_has_a_row(queue):
    batch, _ = matched(tokens=10, updates=5)
    assert len(batch) == 5


def test_nothing_to_replace_trains_nothing(queue):
    batch, records = matched(tokens=0, updates=0)
    assert len(batch) == len(records) == 0
