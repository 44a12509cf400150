"""What travels between the processes of a run, as types: the only place that spells our keys.

rollout worker ──TreeRecord, ExampleRecord──► TransferQueue ──► trainer ──DistillationInfo──► SFT workers

A record of TransferQueue carries one of the two records in verl's `extra_fields`, under one key. The fields of a
mini-batch (`TERM` and those of prefix trees) are columns of verl's TensorDicts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from leafe_verl.core import Kind
from leafe_verl.core.playbook import Delta
from leafe_verl.trees.telling import TellingBranch

_RECORD = "leafe_record"

TRACKERS = {"wandb", "tensorboard"}
"""The trackers of `trainer.logger` that show branches."""

TREES_UNKEPT = "trees_unkept"
"""Count of the trees that the disk did not take. They are not trained on."""

TERM = "leafe_term"
"""Column of a mini-batch, shape (rows,): index of the loss term that an example belongs to."""
PARENTS = "leafe_parents"
"""Column of prefix trees, nested, (rows, tokens): `PrefixTree.parents`. Batches of examples do not have it."""
TARGETS = "leafe_targets"
"""Column of prefix trees, nested, (rows, tokens, terms): number of examples of each term that train the token."""
MERGED = "leafe_merged"
"""Column of prefix trees, shape (rows,): number of tokens that the row's examples have one by one."""


@dataclass(frozen=True)
class TreeRecord:
    """Summary of one exploration tree, or of one plain attempt. It is not trained on."""

    counts: Mapping[str, int]
    """Counts of `core.statistics.count`, and how many trees were not kept or came from the store."""
    branch: TellingBranch | None = None
    """The tree's most telling branch; None where no tracker shows it, and for trees without a branch."""
    delta: Delta | None = None
    """What ACE learned from the attempt; None for other methods."""

    def to_extra_fields(self) -> dict[str, Any]:
        """Return the entry of verl's `extra_fields` that carries this record."""
        value = {
            "counts": dict(self.counts),
            "branch": self.branch.as_mapping() if self.branch else None,
            "delta": dataclasses.asdict(self.delta) if self.delta else None,
        }
        return {_RECORD: {"tree": value}}


@dataclass(frozen=True)
class ExampleRecord:
    """What the trainer must know of one SFT example beside its tokens."""

    kind: Kind
    """Decides the loss term."""
    task_key: str
    tree: int
    """Number of the tree among those of its task; 0 unless trees come from a store."""
    place: int
    """Place of the example in its tree, counted within the phase that it is trained in. Examples that begin alike
    are adjacent."""
    shared_tokens: int
    """Number of leading tokens that the example shares with the one at the place before it."""

    @property
    def origin(self) -> tuple[str, int, int]:
        """Key to sort by: trees finish in any order, and training must not depend on it."""
        return self.task_key, self.tree, self.place

    def to_extra_fields(self) -> dict[str, Any]:
        """Return the entry of verl's `extra_fields` that carries this record."""
        value = {**dataclasses.asdict(self), "kind": self.kind.value}
        return {_RECORD: {"example": value}}


def tracks_branches(config: DictConfig) -> bool:
    """Return whether tree records carry a telling branch: the run has a tracker that shows them, and wants them."""
    chosen = config.trainer.logger
    return config.leafe.tracking.branches > 0 and bool(TRACKERS & ({chosen} if isinstance(chosen, str) else {*chosen}))


Record = TreeRecord | ExampleRecord


def read_record(extra_fields: Any) -> Record | None:
    """Return the record in a row's `extra_fields`; None for rows without one, such as the padding that verl adds.

    Args:
        extra_fields: A mapping, or the NonTensorData that TransferQueue makes of it.
    """
    value = getattr(extra_fields, "data", extra_fields).get(_RECORD)
    if value is None:
        return None
    if example := value.get("example"):
        return ExampleRecord(**{**example, "kind": Kind(example["kind"])})
    tree = value["tree"]
    branch = TellingBranch.from_mapping(tree["branch"]) if tree["branch"] else None
    return TreeRecord(tree["counts"], branch, Delta(**tree["delta"]) if tree["delta"] else None)


@dataclass(frozen=True)
class DistillationInfo:
    """What the SFT workers must know of a phase of distillation beside its examples."""

    weights: Mapping[str, float]
    """Loss terms with their weights, such as {"counterfactual": 1.0, "rehearsal": beta}. `TERM` indexes them."""
    updates: int
    """Number of optimiser steps of the whole phase."""
    share_prefixes: bool
    """Whether examples that begin alike are merged into prefix trees."""

    def to_extra_info(self) -> dict[str, Any]:
        """Return the entries of a KVBatchMeta's `extra_info`, which verl hands to the workers with each mini-batch."""
        return {f"leafe_{name}": value for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_batch(cls, data: TensorDict) -> DistillationInfo:
        """Read the entries again in a worker."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: tu.get_non_tensor_data(data, f"leafe_{name}", None) for name in names})


_TERM_TOKENS = "leafe_term_tokens"


def set_term_tokens(data: TensorDict, tokens: tuple[float, ...]) -> None:
    """Note how many tokens of the mini-batch each loss term trains, over all ranks, in the order of the weights."""
    tu.assign_non_tensor(data, **{_TERM_TOKENS: tokens})


def get_term_tokens(data: TensorDict) -> tuple[float, ...]:
    tokens: tuple[float, ...] = tu.get_non_tensor_data(data, _TERM_TOKENS, None)
    return tokens
