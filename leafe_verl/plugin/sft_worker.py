"""The SFT trainer role: verl's FSDP engine, checkpointing and weight transfer, with LEAFE's loss."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from tqdm import tqdm
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils import tensordict_utils as tu
from verl.utils.metric.utils import AggregationType, Metric
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker
from verl.workers.utils.padding import no_padding_2_padding

from leafe_verl.plugin.cpu import prepare_engine

TERM = "leafe_term"
"""Field of a batch, shape (rows,): which term of the loss a row belongs to, as its place in WEIGHTS."""
WEIGHTS = "leafe_weights"
"""Terms of the loss with their weights, as in {"counterfactual": 1.0, "rehearsal": beta}."""
TOKENS = "leafe_tokens"
"""Trained tokens of each term in the mini-batch, over all ranks, in the order of WEIGHTS."""
UPDATES = "leafe_updates"
"""Optimiser steps of the whole distillation, for the progress bar."""


def distillation_loss(
    model_output: dict[str, torch.Tensor], data: TensorDict, dp_group: Any = None
) -> tuple[torch.Tensor, dict[str, Metric]]:
    """Weighted sum of terms, each the mean over its own tokens of the mini-batch on all ranks: L_cf + beta * L_reh.

    Args:
        model_output: `log_probs`, nested, one row of prompt + response log-probs for each example.
        data: A micro-batch with `prompts`, `responses` and `response_mask` (nested; the mask is 1 where the loss is
            computed), `leafe_term` (rows,), and the mini-batch's `leafe_weights`, `leafe_tokens` and `dp_size`.

    Returns:
        This micro-batch's share of the loss times `dp_size` (FSDP averages gradients over ranks), and metrics whose
        sum over micro-batches and mean over ranks are the terms.
    """
    # The engine autocasts to bfloat16; at a loss near 10 that resolves 0.06, so sums are taken in float32.
    log_probs = no_padding_2_padding(model_output["log_probs"], data).float()
    mask = torch.nested.to_padded_tensor(data["response_mask"], 0.0).float()
    nll = -(log_probs * mask).sum(dim=1)
    weights: dict[str, float] = tu.get_non_tensor_data(data, WEIGHTS, None)
    tokens: tuple[float, ...] = tu.get_non_tensor_data(data, TOKENS, None)
    term_of_row = data[TERM].reshape(-1).to(nll.device)
    loss, metrics = nll.new_zeros(()), {}
    for index, (name, weight) in enumerate(weights.items()):
        term = (nll * (term_of_row == index)).sum() * data["dp_size"] / max(tokens[index], 1)
        metrics[f"loss_{name}"] = Metric(AggregationType.SUM, term.detach())
        loss = loss + weight * term
    return loss, metrics


class SFTTrainingWorker(TrainingWorker):
    """verl's training worker; counts each term's tokens over the global mini-batch before every optimiser step."""

    _bar: tqdm | None = None

    def train_batch(self, data: TensorDict) -> TensorDict:
        tokens = torch.stack([row.sum() for row in data["response_mask"].unbind()]).float()
        terms = data[TERM].reshape(-1).long().to(tokens.device)
        sums = torch.zeros(len(tu.get_non_tensor_data(data, WEIGHTS, None)), device=tokens.device)
        sums = sums.index_add(0, terms, tokens).to(self.device_name)
        torch.distributed.all_reduce(sums, group=self.engine.get_data_parallel_group())
        tu.assign_non_tensor(data, **{TOKENS: tuple(sums.tolist())})
        output = super().train_batch(data)
        if self.rank == 0:
            self._show_progress(tu.get_non_tensor_data(data, UPDATES, None))
        return output

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
