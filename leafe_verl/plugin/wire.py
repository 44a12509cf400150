"""The data that the processes of a run send to each other, as types. Our keys are spelled in no other module.

rollout worker ──TreeRecord, ExampleRecord──► TransferQueue ──► trainer ──DistillationInfo──► SFT workers

A row of TransferQueue carries a TreeRecord or an ExampleRecord in verl's `extra_fields`, under one key. The fields of
a mini-batch (`TERM` and those of prefix trees) are columns of verl's TensorDicts.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from leafe_verl.core import Kind
from leafe_verl.core.playbook import Delta
from leafe_verl.core.recovery_figures import PlainAttempt
from leafe_verl.core.sft_examples import Teacher
from leafe_verl.trees.telling import TellingBranch

_RECORD = "leafe_record"

TREES_UNKEPT = "trees_unkept"
"""Count in a tree record: trees that could not be written to the store of trees. They are not trained on."""
TREES_FROM_STORE = "trees_from_store"
"""Count in a tree record: trees that were read from the store of trees instead of being sampled."""

ATTEMPT = "leafe_attempt"
"""Key among the numbers that verl averages in validation: `PlainAttempt` as JSON. verl passes over texts."""

REPLACED_EXAMPLES = "replaced_examples"
"""Count in a tree record: examples that the tree gives to LEAFE, which the control of rehearsal replaces."""
REPLACED_TOKENS = "replaced_tokens"
"""Count in a tree record: tokens that these examples train in one epoch."""

TERM = "leafe_term"
"""Column of a mini-batch, shape (rows,): index of the loss term that each example belongs to."""
PARENTS = "leafe_parents"
"""Column of prefix trees, nested, (rows, tokens): `PrefixTree.parents`. Batches of examples do not have it."""
TARGETS = "leafe_targets"
"""Column of prefix trees, nested, (rows, tokens, terms): weight of the token's -log p, which is the number of examples
of each term that train it. An example with a teacher counts for what the divergence leaves of it."""
PAIR = "leafe_pair"
"""Column of a mini-batch for DPO, shape (rows,): number of the pair in the phase; 0 for rows of no pair."""
SIDE = "leafe_side"
"""Column of a mini-batch for DPO, shape (rows,): 1 for the chosen row of a pair, -1 for the rejected one, else 0."""
REFERENCE = "leafe_reference"
"""Column of a mini-batch for DPO, shape (rows,): log-probability of the trained tokens before the phase began."""
MARGIN = "leafe_margin"
"""Column of a mini-batch for DPO, shape (rows,): by how much more the present policy prefers the chosen row of this
row's pair to the rejected one than the reference does, as a difference of log-probabilities; 0 for rows of no pair."""
TEACHER_PROMPT = "leafe_teacher_prompt"
"""Column of a mini-batch for `kl`, nested, (rows, tokens): the prompt of the row's teacher; one token without one."""
TAUGHT = "leafe_taught"
"""Column of a mini-batch for `kl`, shape (rows,): number of first trained tokens that the row has a teacher for."""
TEACHER_SHARE = "leafe_teacher_share"
"""Column of a mini-batch for `kl`, shape (rows,): share of the divergence in the loss of these tokens."""
TEACHER_IDS = "leafe_teacher_ids"
"""Column of a mini-batch and of prefix trees for `kl`, nested, (rows, taught tokens, k): what the teacher finds most
probable. A row without a taught token has one here and in the three columns below, with the mass 0."""
TEACHER_PROBS = "leafe_teacher_probs"
"""Column beside `TEACHER_IDS`, nested, (rows, taught tokens, k): the probabilities of these ids, which add up to 1."""
TEACHER_MASS = "leafe_teacher_mass"
"""Column beside `TEACHER_IDS`, nested, (rows, taught tokens): how much of the teacher's mass these ids had."""
TAUGHT_PLACES = "leafe_taught_places"
"""Column of prefix trees for `kl`, nested, (rows, taught tokens): place in the tree of each token of `TEACHER_IDS`."""
TAUGHT_TARGETS = "leafe_taught_targets"
"""Column beside `TAUGHT_PLACES`, nested, (rows, taught tokens, terms): weight of the divergence in each term."""
TOP_K = "leafe_top_k"
"""Entry of a batch of prefix trees that asks the engine for the most probable ids at trained tokens, and how many."""
MERGED = "leafe_merged"
"""Column of prefix trees, shape (rows,): total number of tokens of the row's examples before they were merged."""


@dataclass(frozen=True)
class TreeRecord:
    """Summary of one exploration tree, or of one plain attempt. It is not trained on."""

    counts: Mapping[str, int]
    """Counts of `core.statistics.count`, with `TREES_UNKEPT` and `TREES_FROM_STORE`."""
    task_key: str = ""
    """Key of the task; empty if the tree could not be kept."""
    plain_attempts: tuple[PlainAttempt, ...] = ()
    """The scored roots. The figures of recovery compare those of one task, which GRPO has in several records."""
    branch: TellingBranch | None = None
    """The tree's most telling branch; None if no tracker shows it or the tree has no branch."""
    delta: Delta | None = None
    """What ACE learned from the attempt; None for other methods."""

    def to_extra_fields(self) -> dict[str, Any]:
        """Return the entry of verl's `extra_fields` that carries this record."""
        value = {
            "counts": dict(self.counts),
            "task_key": self.task_key,
            "plain_attempts": [attempt.as_mapping() for attempt in self.plain_attempts],
            "branch": self.branch.as_mapping() if self.branch else None,
            "delta": dataclasses.asdict(self.delta) if self.delta else None,
        }
        return {_RECORD: {"tree": value}}


@dataclass(frozen=True)
class ExampleRecord:
    """Facts about one SFT example that the trainer needs beside its tokens."""

    kind: Kind
    """The kind of example, which decides the loss term."""
    task_key: str
    """Key of the task that the example's tree explores."""
    tree: int
    """Number of the tree among the stored trees of its task; 0 if the tree was sampled in this step."""
    place: int
    """Place of the example among the tree's examples of the same training phase. Examples that begin alike are
    adjacent."""
    shared_tokens: int
    """Number of leading tokens that the example shares with the one at the place before it."""
    trained_tokens: int = 0
    """Number of tokens that the loss is computed on."""
    rejected: bool = False
    """Whether DPO trains the policy away from it. The chosen example of its pair is at the place before it."""
    teacher: Teacher | None = None
    """The teacher of `kl`; None if the loss is -log pi."""

    @property
    def origin(self) -> tuple[str, int, int]:
        """The key to sort examples by, so that training does not depend on the order in which trees finish."""
        return self.task_key, self.tree, self.place

    def to_extra_fields(self) -> dict[str, Any]:
        """Return the entry of verl's `extra_fields` that carries this record."""
        value = {**dataclasses.asdict(self), "kind": self.kind.value}
        return {_RECORD: {"example": value}}


Record = TreeRecord | ExampleRecord


def read_record(extra_fields: Any) -> Record | None:
    """Return the record in a row's `extra_fields`; None for rows without one, such as verl's padding.

    Args:
        extra_fields: A mapping, or the NonTensorData that TransferQueue turns it into.
    """
    value = getattr(extra_fields, "data", extra_fields).get(_RECORD)
    if value is None:
        return None
    if example := value.get("example"):
        teacher = Teacher(**example["teacher"]) if example["teacher"] else None
        return ExampleRecord(**{**example, "kind": Kind(example["kind"]), "teacher": teacher})
    tree = value["tree"]
    return TreeRecord(
        tree["counts"],
        tree["task_key"],
        tuple(map(PlainAttempt.from_mapping, tree["plain_attempts"])),
        TellingBranch.from_mapping(tree["branch"]) if tree["branch"] else None,
        Delta(**tree["delta"]) if tree["delta"] else None,
    )


def attempt_to_info(attempt: PlainAttempt) -> dict[str, str]:
    """Return the entry of verl's `reward_extra_info` that carries an attempt to the trainer's validation."""
    return {ATTEMPT: json.dumps(attempt.as_mapping())}


def attempts_from_infos(infos: Mapping[str, Sequence[Any]], number: int) -> list[PlainAttempt | None]:
    """Return the attempt of each of `number` validated rows; None where a row carries none."""
    texts = infos.get(ATTEMPT, [None] * number)
    return [PlainAttempt.from_mapping(json.loads(text)) if text else None for text in texts]


@dataclass(frozen=True)
class DistillationInfo:
    """Facts about a distillation phase that the SFT workers need beside its examples."""

    weights: Mapping[str, float]
    """Loss terms with their weights, such as {"counterfactual": 1.0, "rehearsal": beta}. `TERM` indexes them."""
    updates: int
    """Number of optimiser steps of the whole phase."""
    share_prefixes: bool
    """Whether examples that begin alike are merged into prefix trees."""
    token_mean: bool = False
    """Whether every trained token of a mini-batch counts the same: `leafe.distillation.loss_agg_mode`."""
    pairs: int = 0
    """Number of pairs that DPO prefers one row of; 0 trains by plain SFT."""
    dpo_beta: float = 0.1
    """`leafe.distillation.dpo_beta`."""
    teachers: int = 0
    """Number of examples with a teacher; 0 trains without any."""
    kl_top_k: int = 64
    """`leafe.distillation.kl_top_k`."""
    run_dir: str | None = None
    """Folder with the run's activity file, in which the first worker counts the updates; None: they are not counted."""
    scheduled_updates: int | None = None
    """Number of optimiser steps that the learning rate's schedule is over; None: it counts training steps."""
    last: bool = True
    """Whether the training step has no later phase."""

    def to_extra_info(self) -> dict[str, Any]:
        """Return entries for a KVBatchMeta's `extra_info`, which verl hands to the workers with each mini-batch."""
        return {f"leafe_{name}": value for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_batch(cls, data: TensorDict) -> DistillationInfo:
        """Rebuild the info, in a worker, from a mini-batch that carries the entries of `to_extra_info`."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: tu.get_non_tensor_data(data, f"leafe_{name}", None) for name in names})


_TERM_TOKENS, _TAUGHT_TOKENS = "leafe_term_tokens", "leafe_taught_tokens"


def set_term_tokens(data: TensorDict, tokens: tuple[float, ...]) -> None:
    """Store how many tokens of the mini-batch each loss term trains over all ranks, in the order of the weights."""
    tu.assign_non_tensor(data, **{_TERM_TOKENS: tokens})


def get_term_tokens(data: TensorDict) -> tuple[float, ...]:
    """Return the numbers that `set_term_tokens` stored."""
    tokens: tuple[float, ...] = tu.get_non_tensor_data(data, _TERM_TOKENS, None)
    return tokens


def set_taught_tokens(data: TensorDict, tokens: float) -> None:
    """Store how many tokens of the mini-batch have a teacher, over all ranks."""
    tu.assign_non_tensor(data, **{_TAUGHT_TOKENS: tokens})


def get_taught_tokens(data: TensorDict) -> float:
    """Return the number that `set_taught_tokens` stored; 0 if it was not called."""
    tokens: float = tu.get_non_tensor_data(data, _TAUGHT_TOKENS, 0.0)
    return tokens
