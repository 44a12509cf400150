"""The SFT trainer role: verl's FSDP engine, checkpointing and weight transfer, with LEAFE's loss."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

import torch
from tensordict import TensorDict
from tqdm import tqdm
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name
from verl.utils.metric.utils import AggregationType, Metric
from verl.workers.config import TrainingWorkerConfig
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker
from verl.workers.utils.padding import no_padding_2_padding

from leafe_verl.plugin.cpu.platform import prepare_engine
from leafe_verl.plugin.training.prefix_attention import OFF
from leafe_verl.plugin.training.prefix_batch import (
    MERGED,
    PARENTS,
    TARGETS,
    TERM,
    in_shared_prefix_order,
    trained_examples,
    tree_batch,
)
from leafe_verl.plugin.training.prefix_engine import BACKENDS, DEVICES, MODEL_TYPE, PrefixTreeEngine
from leafe_verl.plugin.training.prefix_tree import cut_at, cut_into

logger = logging.getLogger(__name__)

WEIGHTS = "leafe_weights"
"""Terms of the loss with their weights, as in {"counterfactual": 1.0, "rehearsal": beta}."""
TOKENS = "leafe_tokens"
"""Trained tokens of each term in the mini-batch, over all ranks, in the order of WEIGHTS."""
UPDATES = "leafe_updates"
"""Optimiser steps of the whole distillation, for the progress bar."""
SHARE = "leafe_share_prefixes"
"""Whether examples that begin alike are merged; see prefix_batch.py."""


def distillation_loss(
    model_output: dict[str, torch.Tensor], data: TensorDict, dp_group: Any = None
) -> tuple[torch.Tensor, dict[str, Metric]]:
    """Weighted sum of terms, each the mean over its own tokens of the mini-batch on all ranks: L_cf + beta * L_reh.

    Args:
        model_output: `log_probs`, nested, (rows, tokens), of examples or of prefix trees.
        data: A micro-batch of examples, with `prompts`, `responses` and `response_mask` (nested; the mask is 1 where
            the loss is computed) and `leafe_term` (rows,), or of prefix trees (prefix_batch.py); and the mini-batch's
            `leafe_weights`, `leafe_tokens` and `dp_size`.

    Returns:
        This micro-batch's share of the loss times `dp_size` (FSDP averages gradients over ranks), and metrics whose
        sum over micro-batches and mean over ranks are the terms and numbers of tokens.
    """
    weights: dict[str, float] = tu.get_non_tensor_data(data, WEIGHTS, None)
    tokens: tuple[float, ...] = tu.get_non_tensor_data(data, TOKENS, None)
    sums = _tree_sums(model_output, data) if PARENTS in data else _example_sums(model_output, data, len(weights))
    terms = {
        name: part * data["dp_size"] / max(number, 1) for name, part, number in zip(weights, sums, tokens, strict=True)
    }
    loss = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
    metrics = {f"loss_{name}": Metric(AggregationType.SUM, term.detach()) for name, term in terms.items()}
    counts = {name: Metric(AggregationType.SUM, n * data["dp_size"]) for name, n in _token_counts(data).items()}
    return loss, metrics | counts


def _example_sums(model_output: dict[str, torch.Tensor], data: TensorDict, terms: int) -> torch.Tensor:
    """-log p of the trained tokens, summed for each term."""
    # The engine autocasts to bfloat16; at a loss near 10 that resolves 0.06, so sums are taken in float32.
    log_probs = no_padding_2_padding(model_output["log_probs"], data).float()
    mask = torch.nested.to_padded_tensor(data["response_mask"], 0.0).float()
    nll = -(log_probs * mask).sum(dim=1)
    term_of_row = data[TERM].reshape(-1).long().to(nll.device)
    return nll.new_zeros(terms).index_add(0, term_of_row, nll)


def _tree_sums(model_output: dict[str, torch.Tensor], data: TensorDict) -> torch.Tensor:
    log_probs = model_output["log_probs"].values().float()
    return -(log_probs.unsqueeze(1) * data[TARGETS].values()).sum(dim=0)  # a product of matrices would be autocast


def _token_counts(data: TensorDict) -> dict[str, int]:
    """Tokens of the examples one by one, tokens that the model computes, and those of them that are padding."""
    lengths = data["input_ids"].offsets().diff()
    computed = int(lengths.sum())
    if PARENTS in data:
        examples = int(data[MERGED].sum())
        return {"tokens": examples, "tokens_computed": computed, "tokens_padding": computed if not examples else 0}
    trains = torch.stack([mask.any() for mask in data["response_mask"].unbind()])
    examples = int((lengths * trains.to(lengths.device)).sum())
    if not tu.get_non_tensor_data(data, "use_remove_padding", True):
        computed = len(lengths) * int(lengths.max())
    return {"tokens": examples, "tokens_computed": computed, "tokens_padding": computed - examples}


class SFTTrainingWorker(TrainingWorker):
    """verl's training worker, for mini-batches of examples.

    Before every optimiser step it counts each term's tokens over all ranks, and merges examples that begin alike.
    """

    _bar: tqdm | None = None
    _warned = False

    def __init__(self, config: TrainingWorkerConfig) -> None:
        if config.engine_config.strategy in BACKENDS and get_device_name() in DEVICES:
            config = dataclasses.replace(config, model_type=MODEL_TYPE)
        super().__init__(config)

    def train_batch(self, data: TensorDict) -> TensorDict:
        tokens = torch.stack([row.sum() for row in data["response_mask"].unbind()]).float()
        terms = data[TERM].reshape(-1).long().to(tokens.device)
        sums = torch.zeros(len(tu.get_non_tensor_data(data, WEIGHTS, None)), device=tokens.device)
        sums = sums.index_add(0, terms, tokens).to(self.device_name)
        torch.distributed.all_reduce(sums, group=self.engine.get_data_parallel_group())
        tu.assign_non_tensor(data, **{TOKENS: tuple(sums.tolist())})
        output = super().train_batch(self._merged(data) if self._shares(data) else data)
        if self.rank == 0:
            self._show_progress(tu.get_non_tensor_data(data, UPDATES, None))
        return output

    def _shares(self, data: TensorDict) -> bool:
        if not tu.get_non_tensor_data(data, SHARE, False):
            return False
        ours = isinstance(self.engine, PrefixTreeEngine)
        obstacle = self.engine.obstacle if ours else f"the engine is a {type(self.engine).__name__}"
        if obstacle and self.rank == 0 and not self._warned:
            logger.warning("prefixes are not shared, examples are trained on one by one: %s; %s", obstacle, OFF)
            self._warned = True
        return obstacle is None

    def _merged(self, data: TensorDict) -> TensorDict:
        """The examples as prefix trees: as many, of about one size, on every rank."""
        examples, shared = in_shared_prefix_order(trained_examples(data))
        lengths = [len(example.token_ids) for example in examples]
        parts = torch.tensor(self._num_trees(lengths, shared), device=self.device_name)
        group = self.engine.get_data_parallel_group()
        torch.distributed.all_reduce(parts, op=torch.distributed.ReduceOp.MAX, group=group)
        pieces = [examples[piece.start : piece.stop] for piece in cut_into(lengths, shared, int(parts))]
        merged = tree_batch(pieces, len(tu.get_non_tensor_data(data, WEIGHTS, None)), data)
        # verl would count the operations of examples one by one: no utilisation is better than a wrong one.
        plain = {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 1, "global_token_num": None}
        return tu.assign_non_tensor(merged, **plain)

    def _num_trees(self, lengths: list[int], shared: list[int]) -> int:
        """Micro-batches that this rank needs."""
        config = self.engine_config
        if not config.use_dynamic_bsz:
            return max(math.ceil(len(lengths) / config.micro_batch_size_per_gpu), 1)
        if (longest := max(lengths, default=0)) > config.max_token_len_per_gpu:
            raise ValueError(
                f"an example has {longest} tokens, a micro-batch at most {config.max_token_len_per_gpu}; "
                "raise actor_rollout_ref.actor.ppo_max_token_len_per_gpu"
            )
        return len(cut_at(lengths, shared, config.max_token_len_per_gpu))

    def _show_progress(self, updates: int | None) -> None:
        if self._bar is None:
            self._bar = tqdm(total=updates, desc="distilling", unit="update", mininterval=5.0)
        self._bar.update(1)
        if self._bar.n == updates:
            self._bar.close()
            self._bar = None


class PolicyWorker(ActorRolloutRefWorker):
    """verl's hybrid worker, able to train without an accelerator."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        prepare_engine()
        super().init_model()

    @register(dispatch_mode=Dispatch.ONE_TO_ALL, blocking=False)
    async def update_weights(self, global_steps: int | None = None, mode: str = "auto") -> Any:
        # Asked for anew by its name: another server may have taken a dead one's place.
        self.rollout.server_handle = None
        return await super().update_weights(global_steps=global_steps, mode=mode)


class SFTWorker(PolicyWorker):
    """The SFT trainer role beside verl's PPO one: same engine, same vLLM, another loss."""

    actor_worker_cls = SFTTrainingWorker

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        super().init_model()
        self.actor.set_loss_fn(distillation_loss)
