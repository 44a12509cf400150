"""Divides a step's examples into distillation phases, and lays each phase out over mini-batches and ranks."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size

from leafe_verl.core import Kind
from leafe_verl.core.sft_examples import PHASES, Teacher
from leafe_verl.plugin.training.batches import BatchLayout, ExampleRow, MiniBatchOrder, lay_out
from leafe_verl.plugin.training.prefix_engine import BACKENDS
from leafe_verl.plugin.training.records import select_rows
from leafe_verl.plugin.wire import (
    PAIR,
    SIDE,
    TAUGHT,
    TEACHER_PROMPT,
    TEACHER_SHARE,
    TERM,
    DistillationInfo,
    ExampleRecord,
)


@dataclass(frozen=True)
class Phase:
    """Examples that are distilled together. The next phase starts from the weights that this one ends with."""

    name: str
    """A key of `core.sft_examples.PHASES`."""
    batch: KVBatchMeta
    """Padded rows, ordered by rank, then by mini-batch."""
    weights: dict[str, float]
    """The weight of each loss term."""
    num_mini_batches: int
    """Number of optimiser steps in one epoch."""
    rows_per_rank: int
    """Rows of one mini-batch on one rank, padding included."""
    epochs: int
    """Number of passes over the examples."""
    imbalance: float
    """Tokens of the busiest rank over the mean of the ranks; 1 is perfect."""
    tokens: int
    """Number of tokens that one epoch trains."""
    pairs: int
    """Number of pairs that DPO prefers one row of; 0 for plain SFT."""
    teachers: int = 0
    """Number of examples with a teacher; 0 without the loss `kl`."""

    @property
    def updates(self) -> int:
        """Number of optimiser steps of all epochs."""
        return self.num_mini_batches * self.epochs


def phase_weights(distillation: DictConfig) -> dict[str, dict[str, float]]:
    """Return the weight of each loss term, for each phase. What `leafe.distillation` turns off is no term."""
    weights = {
        Kind.WORLD_MODEL: 1.0,
        Kind.PREFERENCE if distillation.loss == "dpo" else Kind.COUNTERFACTUAL: 1.0,
        # Rehearsal alone is an objective of its own, which beta does not weigh against another.
        Kind.REHEARSAL: 1.0 if distillation.control == "rehearsal" else distillation.beta,
        **({Kind.RECOVERY: distillation.recovery_weight} if distillation.recovery_targets else {}),
        **({Kind.HOLD: distillation.hold_weight} if distillation.hold_share else {}),
    }
    return {name: {kind.value: weights[kind] for kind in kinds if kind in weights} for name, kinds in PHASES.items()}


@dataclass(frozen=True)
class PhaseBuilder:
    """Lays out the examples of a training step, phase by phase."""

    config: DictConfig
    ranks: int
    """Number of data-parallel ranks."""
    step: int
    """The training step, which enters the seed of the order of examples, or of trees."""
    pad_token_id: int

    def build(
        self, batch: KVBatchMeta, examples: Mapping[str, ExampleRecord], mini_batches: int | None = None
    ) -> list[Phase]:
        """Return the phases that have examples.

        Args:
            examples: The records of rows in `batch`, by their keys.
            mini_batches: Number of optimiser steps in one epoch of a phase; None: as many as its examples need.
        """
        phases = []
        for name, weights in phase_weights(self.config.leafe.distillation).items():
            if mine := {key: example for key, example in examples.items() if example.kind.value in weights}:
                number = mini_batches or self.mini_batches(sum(not example.rejected for example in mine.values()))
                phases.append(self._phase(name, weights, select_rows(batch, mine), mine, number))
        return phases

    def mini_batches(self, examples: int) -> int:
        """Return the number of mini-batches of ppo_mini_batch_size * rollout.n examples; a pair counts as one."""
        size: int = self.config.actor_rollout_ref.actor.ppo_mini_batch_size * self.config.actor_rollout_ref.rollout.n
        return math.ceil(examples / size)

    def _phase(
        self,
        name: str,
        weights: dict[str, float],
        batch: KVBatchMeta,
        examples: Mapping[str, ExampleRecord],
        mini_batches: int,
    ) -> Phase:
        actor = self.config.actor_rollout_ref.actor
        draw = random.Random(f"{actor.data_loader_seed}:{self.step}:{name}") if actor.shuffle else None
        rows, mixed = self._rows(batch, examples), self.config.leafe.distillation.mix_trees
        layout = lay_out(rows, mini_batches=mini_batches, ranks=self.ranks, draw=draw, mixed=mixed)
        padded, rows_per_rank = self._padded(batch, layout, mini_batches, examples)
        _put_terms(padded, [*weights], examples)
        pairs = _put_pairs(padded, examples)
        teachers = _put_teachers(padded, examples, self.pad_token_id)
        tokens = sum(example.trained_tokens for example in examples.values())
        epochs = self.config.leafe.distillation.world_model_epochs if name == "world_model" else actor.ppo_epochs
        return Phase(
            name=name,
            batch=padded,
            weights=weights,
            num_mini_batches=mini_batches,
            rows_per_rank=rows_per_rank,
            epochs=epochs,
            imbalance=layout.imbalance,
            tokens=tokens,
            pairs=pairs,
            teachers=teachers,
        )

    def _rows(self, batch: KVBatchMeta, examples: Mapping[str, ExampleRecord]) -> list[ExampleRow]:
        """Return the examples tree by tree, so that training does not depend on the order in which trees finish."""
        share = self.config.leafe.distillation.share_prefixes
        lengths = {key: tag["seq_len"] for key, tag in zip(batch.keys, batch.tags, strict=True)}
        return [
            ExampleRow(
                key, example.origin[:2], lengths[key], example.shared_tokens if share else 0, joined=example.rejected
            )
            for key, example in sorted(examples.items(), key=lambda item: item[1].origin)
        ]

    def _padded(
        self, batch: KVBatchMeta, layout: BatchLayout, mini_batches: int, examples: Mapping[str, ExampleRecord]
    ) -> tuple[KVBatchMeta, int]:
        """Return the rows in the order of the layout, each cell padded to the same size, and that size."""
        actor = self.config.actor_rollout_ref.actor
        # Without shared prefixes verl divides a rank's rows into micro-batches of equal size.
        multiple = 1 if actor.use_dynamic_bsz else actor.ppo_micro_batch_size_per_gpu
        rows_per_rank = layout.rows_per_cell(multiple)
        padded = upsample_batch_to_divisible_size(batch, mini_batches * self.ranks * rows_per_rank, self.pad_token_id)
        padding = [key for key in padded.keys if key not in examples]
        return select_rows(padded, layout.keys(padding, multiple)), rows_per_rank


def _put_terms(batch: KVBatchMeta, terms: list[str], examples: Mapping[str, ExampleRecord]) -> None:
    """Write the index of each row's loss term to TransferQueue. Padding rows train nothing, so they get term 0."""
    indices = [terms.index(examples[key].kind.value) if key in examples else 0 for key in batch.keys]
    fields = TensorDict({TERM: torch.tensor(indices)}, batch_size=len(indices))
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)


def _put_pairs(batch: KVBatchMeta, examples: Mapping[str, ExampleRecord]) -> int:
    """Write the pair and the side of each row to TransferQueue if there are pairs, and return their number."""
    preferred = [key for key, example in examples.items() if example.kind is Kind.PREFERENCE]
    if not preferred:
        return 0
    # The rejected example is at the place after the chosen one.
    ordered = sorted(preferred, key=lambda key: examples[key].origin)
    pair_of = {key: number // 2 for number, key in enumerate(ordered)}
    sides = [(-1 if examples[key].rejected else 1) if key in pair_of else 0 for key in batch.keys]
    fields = TensorDict(
        {PAIR: torch.tensor([pair_of.get(key, 0) for key in batch.keys]), SIDE: torch.tensor(sides)},
        batch_size=len(batch),
    )
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
    return len(ordered) // 2


def _put_teachers(batch: KVBatchMeta, examples: Mapping[str, ExampleRecord], pad_token_id: int) -> int:
    """Write each row's teacher to TransferQueue if there are any, and return the number of examples that have one."""
    teachers = {key: example.teacher for key, example in examples.items() if example.teacher}
    if not teachers:
        return 0
    found = [teachers.get(key, Teacher((pad_token_id,), 0)) for key in batch.keys]
    prompts = [torch.tensor(teacher.prompt) for teacher in found]
    fields = TensorDict(
        {
            TEACHER_PROMPT: torch.nested.as_nested_tensor(prompts, layout=torch.jagged),
            TAUGHT: torch.tensor([teacher.tokens for teacher in found]),
            TEACHER_SHARE: torch.tensor([teacher.share for teacher in found]),
        },
        batch_size=len(batch),
    )
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
    return len(teachers)


def prepare_update(phase: Phase, phases: Sequence[Phase], config: DictConfig) -> None:
    """Add to the phase's batch the settings that verl's workers and ours need to train on it.

    Args:
        phases: All phases of the training step, in their order.
    """
    actor = config.actor_rollout_ref.actor
    mini_batch_size = len(phase.batch) // phase.num_mini_batches
    seed = actor.data_loader_seed if actor.shuffle else None
    distillation = config.leafe.distillation
    # DPO needs the log-probability of each row by itself.
    shares = distillation.share_prefixes and not phase.pairs
    info = DistillationInfo(
        phase.weights,
        phase.updates,
        shares,
        token_mean=distillation.loss_agg_mode == "token-mean",
        pairs=phase.pairs,
        dpo_beta=distillation.dpo_beta,
        teachers=phase.teachers,
        kl_top_k=distillation.kl_top_k,
        run_dir=config.get("run_dir"),
        scheduled_updates=_scheduled_updates(phases, config),
        last=phase is phases[-1],
    )
    phase.batch.extra_info.update(
        {
            "global_batch_size": mini_batch_size,
            "mini_batch_size": mini_batch_size,
            "epochs": phase.epochs,
            "seed": actor.data_loader_seed,
            "dataloader_kwargs": {"sampler": MiniBatchOrder(phase.num_mini_batches, phase.rows_per_rank, seed)},
            "temperature": distillation.temperature,
            **info.to_extra_info(),
        }
    )


def _scheduled_updates(phases: Sequence[Phase], config: DictConfig) -> int | None:
    """Return `DistillationInfo.scheduled_updates`: where everything is collected at once, there is one training step,
    and a warm-up that counted it would keep the learning rate at 0 in all of it."""
    if config.leafe.schedule.collect != "all" or config.actor_rollout_ref.actor.strategy not in BACKENDS:
        return None
    return sum(phase.updates for phase in phases)
