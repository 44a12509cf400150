"""Merges the examples of a mini-batch into prefix trees. Each tree is one row, and thus one micro-batch.

examples (rows of TransferQueue)  ─►  shared-prefix order  ─►  balanced pieces  ─►  trees (rows of the engine)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from tensordict import NonTensorData, TensorDict

from leafe_verl.core.shared_prefix import sort_by_shared_prefix
from leafe_verl.plugin.training.prefix_tree import PrefixTree, merge
from leafe_verl.plugin.wire import (
    MERGED,
    PARENTS,
    TARGETS,
    TAUGHT_PLACES,
    TAUGHT_TARGETS,
    TEACHER_IDS,
    TEACHER_MASS,
    TEACHER_PROBS,
    TEACHER_SHARE,
    TERM,
)


@dataclass(frozen=True)
class TaughtTokens:
    """The distributions of a teacher at some tokens, cut to its k most probable ids."""

    ids: torch.Tensor
    """Shape (tokens, k)."""
    probs: torch.Tensor
    """Shape (tokens, k): probabilities of these ids, which add up to 1."""
    mass: torch.Tensor
    """Shape (tokens,): how much of the teacher's mass these ids had."""
    share: float = 1.0
    """Share of the divergence in the loss of these tokens; -log p has the rest."""

    @classmethod
    def nothing(cls, k: int) -> TaughtTokens:
        """Return one token that teaches nothing, for rows that have no other: nested tensors have no empty rows."""
        return cls(torch.zeros(1, k, dtype=torch.long), torch.zeros(1, k), torch.zeros(1))


@dataclass(frozen=True)
class TrainedExample:
    """An example up to its last trained token, since no later token affects the loss."""

    token_ids: tuple[int, ...]
    trained: tuple[int, ...]
    """Positions of the trained tokens in `token_ids`."""
    term: int
    """Index of the loss term."""
    length: int
    """Number of tokens of the whole example, with those after the last trained one."""
    row: int = 0
    """Row of the batch that the example is."""
    taught: TaughtTokens | None = field(default=None, compare=False)
    """What its teacher says of its first trained tokens; None without a teacher."""


def trained_examples(data: TensorDict) -> list[TrainedExample]:
    """Return the rows of a batch that have trained tokens, which leaves out padding.

    Args:
        data: A batch with `TERM`, shape (rows,), `input_ids`, nested (rows, tokens), and `response_mask`, nested, which
            covers the last tokens of each row.
    """
    found = []
    rows = zip(data["input_ids"].unbind(), data["response_mask"].unbind(), data[TERM].reshape(-1), strict=True)
    taught = _taught(data) if TEACHER_IDS in data else {}
    for row, (token_ids, mask, term) in enumerate(rows):
        trained = (mask.nonzero().reshape(-1) + len(token_ids) - len(mask)).tolist()
        if trained:
            until_last = tuple(token_ids[: trained[-1] + 1].tolist())
            found.append(TrainedExample(until_last, tuple(trained), int(term), len(token_ids), row, taught.get(row)))
    return found


def _taught(data: TensorDict) -> dict[int, TaughtTokens]:
    """Return what teachers say, by the rows that have one."""
    columns = (data[name].cpu().unbind() for name in (TEACHER_IDS, TEACHER_PROBS, TEACHER_MASS))
    found = (TaughtTokens(*each) for each in zip(*columns, data[TEACHER_SHARE].reshape(-1).tolist(), strict=True))
    return {row: taught for row, taught in enumerate(found) if taught.mass.any()}


def in_shared_prefix_order(examples: Sequence[TrainedExample]) -> tuple[list[TrainedExample], list[int]]:
    """Return the examples in shared-prefix order, and how many leading tokens each shares with the one before it."""
    order = sort_by_shared_prefix([example.token_ids for example in examples])
    return [examples[index] for index, _ in order], [shared for _, shared in order]


def tree_batch(pieces: Sequence[Sequence[TrainedExample]], terms: int, data: TensorDict) -> TensorDict:
    """Merge each piece into one row. Entries of `data` that are not tensors are kept.

    A piece without examples becomes a row of one token that trains nothing, because FSDP needs every rank to take
    part in each forward and backward pass.
    """
    trees = [merge([example.token_ids for example in piece]) for piece in pieces]
    rows = [_row(piece, tree, terms) for piece, tree in zip(pieces, trees, strict=True)]
    if TEACHER_IDS in data:
        k = data[TEACHER_IDS].shape[-1]
        spoken = [_taught_row(piece, tree, terms, k) for piece, tree in zip(pieces, trees, strict=True)]
        rows = [row | taught for row, taught in zip(rows, spoken, strict=True)]
    fields = {
        name: torch.nested.as_nested_tensor([row[name] for row in rows], layout=torch.jagged)
        for name in rows[0]
        if name != MERGED
    }
    fields[MERGED] = torch.stack([row[MERGED] for row in rows])
    batch = TensorDict(fields, batch_size=len(rows)).to(data["input_ids"].device)
    for key, value in data.items():
        if isinstance(value, NonTensorData):
            batch[key] = value
    return batch


def _row(examples: Sequence[TrainedExample], tree: PrefixTree, terms: int) -> dict[str, torch.Tensor]:
    targets = torch.zeros(max(len(tree.token_ids), 1), terms)
    trained = torch.zeros(len(targets), dtype=torch.long)
    for example, path in zip(examples, tree.paths, strict=True):
        places = [path[place] for place in example.trained]
        trained[places] = 1
        targets[places, example.term] += 1
        if example.taught:
            targets[places[: len(example.taught.mass)], example.term] -= example.taught.share
    return {
        "input_ids": torch.tensor(tree.token_ids or (0,)),
        PARENTS: torch.tensor(tree.parents or (-1,)),
        TARGETS: targets,
        "loss_mask": trained,
        MERGED: torch.tensor(sum(example.length for example in examples)),
    }


def _taught_row(examples: Sequence[TrainedExample], tree: PrefixTree, terms: int, k: int) -> dict[str, torch.Tensor]:
    """Return what the teachers of a piece say. Examples that share a token may have teachers that differ."""
    places: list[int] = []
    found, targets = [], []
    for example, path in zip(examples, tree.paths, strict=True):
        if example.taught:
            tokens = len(example.taught.mass)
            places += [path[place] for place in example.trained[:tokens]]
            found.append(example.taught)
            targets.append(torch.zeros(tokens, terms))
            targets[-1][:, example.term] = example.taught.share
    found = found or [TaughtTokens.nothing(k)]
    return {
        TAUGHT_PLACES: torch.tensor(places or [0]),
        TAUGHT_TARGETS: torch.cat(targets or [torch.zeros(1, terms)]),
        TEACHER_IDS: torch.cat([each.ids for each in found]),
        TEACHER_PROBS: torch.cat([each.probs for each in found]),
        TEACHER_MASS: torch.cat([each.mass for each in found]),
    }
