"""Merges the examples of a mini-batch into prefix trees. Each tree is one row, and thus one micro-batch.

examples (rows of TransferQueue)  ─►  shared-prefix order  ─►  balanced pieces  ─►  trees (rows of the engine)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from tensordict import NonTensorData, TensorDict

from leafe_verl.core.shared_prefix import sort_by_shared_prefix
from leafe_verl.plugin.training.prefix_tree import merge
from leafe_verl.plugin.wire import MERGED, PARENTS, TARGETS, TERM


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


def trained_examples(data: TensorDict) -> list[TrainedExample]:
    """Return the rows of a batch that have trained tokens, which leaves out padding.

    Args:
        data: A batch with `TERM`, shape (rows,), `input_ids`, nested (rows, tokens), and `response_mask`, nested, which
            covers the last tokens of each row.
    """
    found = []
    rows = zip(data["input_ids"].unbind(), data["response_mask"].unbind(), data[TERM].reshape(-1), strict=True)
    for token_ids, mask, term in rows:
        trained = (mask.nonzero().reshape(-1) + len(token_ids) - len(mask)).tolist()
        if trained:
            found.append(
                TrainedExample(tuple(token_ids[: trained[-1] + 1].tolist()), tuple(trained), int(term), len(token_ids))
            )
    return found


def in_shared_prefix_order(examples: Sequence[TrainedExample]) -> tuple[list[TrainedExample], list[int]]:
    """Return the examples in shared-prefix order, and how many leading tokens each shares with the one before it."""
    order = sort_by_shared_prefix([example.token_ids for example in examples])
    return [examples[index] for index, _ in order], [shared for _, shared in order]


def tree_batch(pieces: Iterable[Sequence[TrainedExample]], terms: int, data: TensorDict) -> TensorDict:
    """Merge each piece into one row. Entries of `data` that are not tensors are kept.

    A piece without examples becomes a row of one token that trains nothing, because FSDP needs every rank to take
    part in each forward and backward pass.
    """
    rows = [_row(piece, terms) for piece in pieces]
    fields = {
        name: torch.nested.as_nested_tensor([row[name] for row in rows], layout=torch.jagged)
        for name in ("input_ids", PARENTS, TARGETS, "loss_mask")
    }
    fields[MERGED] = torch.stack([row[MERGED] for row in rows])
    batch = TensorDict(fields, batch_size=len(rows)).to(data["input_ids"].device)
    for key, value in data.items():
        if isinstance(value, NonTensorData):
            batch[key] = value
    return batch


def _row(examples: Sequence[TrainedExample], terms: int) -> dict[str, torch.Tensor]:
    tree = merge([example.token_ids for example in examples])
    targets = torch.zeros(max(len(tree.token_ids), 1), terms)
    for example, path in zip(examples, tree.paths, strict=True):
        targets[[path[place] for place in example.trained], example.term] += 1
    return {
        "input_ids": torch.tensor(tree.token_ids or (0,)),
        PARENTS: torch.tensor(tree.parents or (-1,)),
        TARGETS: targets,
        "loss_mask": targets.any(dim=1).long(),
        MERGED: torch.tensor(sum(example.length for example in examples)),
    }
