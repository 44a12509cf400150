"""A mini-batch's examples as prefix trees: one row, and so one micro-batch, for each tree.

examples (rows of TransferQueue)  ─►  depth-first order  ─►  balanced pieces  ─►  trees (rows of the engine)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from tensordict import NonTensorData, TensorDict

from leafe_verl.core.shared_prefix import sort_by_shared_prefix
from leafe_verl.plugin.training.prefix_tree import merge

TERM = "leafe_term"
"""Field of a batch, shape (rows,): which term of the loss an example belongs to."""
PARENTS = "leafe_parents"
"""Field of a row that is a prefix tree, nested, (rows, tokens): `PrefixTree.parents`."""
TARGETS = "leafe_targets"
"""Field of a row that is a prefix tree, nested, (rows, tokens, terms): examples of each term that train the token."""
MERGED = "leafe_merged"
"""Field of a row that is a prefix tree, shape (rows,): tokens of its examples one by one."""


@dataclass(frozen=True)
class TrainedExample:
    """An example up to its last trained token: nothing after it reaches the loss."""

    token_ids: tuple[int, ...]
    trained: tuple[int, ...]
    """Places of the trained tokens."""
    term: int
    length: int
    """Tokens of the whole example."""


def trained_examples(data: TensorDict) -> list[TrainedExample]:
    """Return the rows of a batch in which anything is trained: rows of padding are none.

    Args:
        data: `input_ids` and `response_mask`, nested, with the mask of the last tokens of each row, and `leafe_term`.
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
    """Return examples so that those that begin alike are adjacent, and what each shares with the one before it."""
    order = sort_by_shared_prefix([example.token_ids for example in examples])
    return [examples[index] for index, _ in order], [shared for _, shared in order]


def tree_batch(pieces: Iterable[Sequence[TrainedExample]], terms: int, data: TensorDict) -> TensorDict:
    """Merge each piece into a row; what `data` holds beside tensors stays.

    A piece without examples is a row of one token that trains nothing, since FSDP's ranks compute in step.
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
