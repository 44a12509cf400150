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

COUNTERFACTUAL = "is_counterfactual"
"""Field of a batch, shape (rows,): 1 for an example of L_cf, 0 for one of L_reh."""
BETA = "leafe_beta"
UPDATES = "leafe_updates"
"""Optimiser steps of the whole distillation, for the progress bar."""
TOKENS_CF, TOKENS_REH = "leafe_tokens_cf", "leafe_tokens_reh"
"""Trained tokens of each term in the mini-batch, over all ranks."""


def distillation_loss(
    model_output: dict[str, torch.Tensor], data: TensorDict, dp_group: Any = None
) -> tuple[torch.Tensor, dict[str, Metric]]:
    """L = L_cf + beta * L_reh, each the mean over its own tokens of the mini-batch on all ranks.

    Args:
        model_output: `log_probs`, nested, one row of prompt + response log-probs for each example.
        data: A micro-batch with `prompts`, `responses` and `response_mask` (nested; the mask is 1 where the loss is
            computed), `is_counterfactual` (rows,), and the mini-batch's `leafe_tokens_*`, `leafe_beta`, `dp_size`.

    Returns:
        This micro-batch's share of the loss times `dp_size` (FSDP averages gradients over ranks), and metrics whose
        sum over micro-batches and mean over ranks are the terms.
    """
    # The engine autocasts to bfloat16; at a loss near 10 that resolves 0.06, so sums are taken in float32.
    log_probs = no_padding_2_padding(model_output["log_probs"], data).float()
    mask = torch.nested.to_padded_tensor(data["response_mask"], 0.0).float()
    nll = -(log_probs * mask).sum(dim=1)
    is_cf = data[COUNTERFACTUAL].reshape(-1).to(nll.device, torch.float32)
    beta, dp_size = tu.get_non_tensor_data(data, BETA, 1.0), data["dp_size"]
    loss_cf = (nll * is_cf).sum() * dp_size / max(tu.get_non_tensor_data(data, TOKENS_CF, 0), 1)
    loss_reh = (nll * (1 - is_cf)).sum() * dp_size / max(tu.get_non_tensor_data(data, TOKENS_REH, 0), 1)
    terms = {"loss_counterfactual": loss_cf, "loss_rehearsal": loss_reh}
    metrics = {name: Metric(AggregationType.SUM, term.detach()) for name, term in terms.items()}
    return loss_cf + beta * loss_reh, metrics


class SFTTrainingWorker(TrainingWorker):
    """verl's training worker; counts each term's tokens over the global mini-batch before every optimiser step."""

    _bar: tqdm | None = None

    def train_batch(self, data: TensorDict) -> TensorDict:
        tokens = torch.stack([row.sum() for row in data["response_mask"].unbind()]).float()
        is_cf = data[COUNTERFACTUAL].reshape(-1).float().to(tokens.device)
        sums = torch.stack([(tokens * is_cf).sum(), (tokens * (1 - is_cf)).sum()]).to(self.device_name)
        group = self.engine.get_data_parallel_group()
        torch.distributed.all_reduce(sums, group=group)
        tu.assign_non_tensor(data, **{TOKENS_CF: sums[0].item(), TOKENS_REH: sums[1].item()})
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


class SFTWorker(PolicyWorker):
    """The SFT trainer role beside verl's PPO one: same engine, same vLLM, another loss."""

    actor_worker_cls = SFTTrainingWorker

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        super().init_model()
        self.actor.set_loss_fn(distillation_loss)
