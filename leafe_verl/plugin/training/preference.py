"""DPO on pairs of rows, which may lie in different micro-batches and on different ranks.

The gradient of DPO, for a pair whose chosen row the policy prefers by Delta more than the reference does, is

    -beta * sigmoid(-beta * Delta) * (gradient of log p(chosen) - gradient of log p(rejected))

so that each row can be trained by itself once Delta is known. It comes from a forward pass before each optimiser step,
and from one before the first step, when the policy still is its own reference.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch.nn.functional import softplus
from verl.utils import tensordict_utils as tu
from verl.utils.metric.utils import AggregationType, Metric
from verl.workers.engine_workers import TrainingWorker
from verl.workers.utils.padding import no_padding_2_padding

from leafe_verl.plugin.wire import MARGIN, PAIR, REFERENCE, SIDE, DistillationInfo


def sequence_log_probs(worker: TrainingWorker, data: TensorDict, *, loaded: bool) -> torch.Tensor:
    """Return the log-probability of each row's trained tokens under the present policy, shape (rows,), in float32.

    `loaded` says whether the weights are where they are computed with, or offloaded if the engine does that.
    """
    given = {
        "use_remove_padding": worker.model_config.get("use_remove_padding", False),
        "use_fused_kernels": worker.engine_config.use_fused_kernels,
        "use_dynamic_bsz": worker.engine_config.use_dynamic_bsz,
        "max_token_len_per_gpu": worker.engine_config.max_token_len_per_gpu,
        "micro_batch_size_per_gpu": worker.engine_config.micro_batch_size_per_gpu,
        "compute_loss": False,
    }
    # A copy, since these entries must not reach the batch that is trained on.
    batch = tu.assign_non_tensor(data.copy(), **given)
    with worker.engine.eval_mode(disable_auto_offload=loaded):
        output = worker.engine.infer_batch(batch)
    log_probs = no_padding_2_padding(output["model_output"]["log_probs"], data).float()
    mask = torch.nested.to_padded_tensor(data["response_mask"], 0.0).to(log_probs)
    summed: torch.Tensor = (log_probs * mask).sum(dim=1)
    return summed.to(data["input_ids"].device)


def pair_margins(worker: TrainingWorker, data: TensorDict) -> torch.Tensor:
    """Return `MARGIN` for the rows of a mini-batch, whose pairs may be spread over the ranks."""
    side, pair = data[SIDE].reshape(-1), data[PAIR].reshape(-1).long()
    gained = side * (sequence_log_probs(worker, data, loaded=True) - data[REFERENCE].reshape(-1))
    margins = torch.zeros(DistillationInfo.from_batch(data).pairs, device=gained.device).index_add(0, pair, gained)
    margins = margins.to(worker.device_name)
    torch.distributed.all_reduce(margins, group=worker.engine.get_data_parallel_group())
    of_row: torch.Tensor = margins.to(pair.device)[pair] * side.abs()
    return of_row


def pair_losses(nll: torch.Tensor, data: TensorDict) -> torch.Tensor:
    """Return the losses of rows, shape (rows,): -log p for rows of no pair, and half a pair's loss for each of its two.

    The value is that of DPO; the gradient is DPO's share of this row.
    """
    beta = DistillationInfo.from_batch(data).dpo_beta
    side, margin = (data[name].reshape(-1).to(nll) for name in (SIDE, MARGIN))
    weighted = beta * torch.sigmoid(-beta * margin) * side * nll
    halves = softplus(-beta * margin) / 2
    return torch.where(side == 0, nll, halves + weighted - weighted.detach())


def pair_metrics(data: TensorDict, pairs: float) -> dict[str, Metric]:
    """Return the means over a mini-batch's pairs of the difference of DPO's rewards, and of whether it is positive.

    Args:
        data: A micro-batch, each row of which adds half of its pair's share.
        pairs: Number of pairs in the mini-batch of all ranks, at least one.
    """
    of_pair = data[SIDE].reshape(-1).abs() * data["dp_size"] / (2 * pairs)
    margin = data[MARGIN].reshape(-1)
    sums = {
        "reward_margin": DistillationInfo.from_batch(data).dpo_beta * (of_pair * margin).sum(),
        "pair_accuracy": (of_pair * (margin > 0)).sum(),
    }
    return {name: Metric(AggregationType.SUM, value.float()) for name, value in sums.items()}
