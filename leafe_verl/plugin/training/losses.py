"""LEAFE's loss: L_cf + beta * L_reh, and the terms of other phases and controls.

The weights of the terms are in phases.py, and DPO's pairs in preference.py. Teachers (`kl`) are asked in teacher.py,
and prefix_engine.py computes the divergence from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.metric.utils import AggregationType, Metric
from verl.workers.utils.padding import no_padding_2_padding

from leafe_verl.core import Kind
from leafe_verl.plugin.training.preference import pair_losses, pair_metrics
from leafe_verl.plugin.training.teacher import teacher_metrics
from leafe_verl.plugin.wire import (
    MARGIN,
    MERGED,
    PARENTS,
    TARGETS,
    TAUGHT_TARGETS,
    TEACHER_IDS,
    TERM,
    DistillationInfo,
    get_term_tokens,
)


def distillation_loss(
    model_output: dict[str, torch.Tensor], data: TensorDict, dp_group: Any = None
) -> tuple[torch.Tensor, dict[str, Metric]]:
    """Compute L_cf + beta * L_reh, or the loss terms of another phase, weighted and summed.

    Each term is a mean over its own tokens in the mini-batch of all ranks, that of DPO over its pairs. With the loss
    aggregation `token-mean` it also has its tokens' share of the mini-batch, so that every token counts the same.

    Args:
        model_output: `log_probs`, nested (rows, tokens), of examples or of prefix trees; and `divergence`, nested
            (rows, taught tokens), of prefix trees with teachers.
        data: A micro-batch, either of examples or of prefix trees (prefix_batch.py). Examples have `prompts`,
            `responses` and `response_mask` (nested; the mask is 1 where the loss is computed) and `TERM`, shape
            (rows,). Both carry the mini-batch's DistillationInfo, term tokens and `dp_size`.

    Returns:
        This micro-batch's share of the loss times `dp_size`, because FSDP averages gradients over ranks; and metrics,
        which give the terms and numbers of tokens when summed over micro-batches and averaged over ranks.
    """
    info, tokens = DistillationInfo.from_batch(data), get_term_tokens(data)
    weights = info.weights
    sums = _tree_sums(model_output, data) if PARENTS in data else _example_sums(model_output, data, len(weights))
    terms = {
        name: part * data["dp_size"] / max(number, 1) for name, part, number in zip(weights, sums, tokens, strict=True)
    }
    shares = term_shares(info, tokens)
    loss = torch.stack([weight * shares[name] * terms[name] for name, weight in weights.items()]).sum()
    # verl takes the mean over mini-batches: one without a term's tokens says nothing of it.
    told = {name: terms[name] for name, number in zip(weights, tokens, strict=True) if number}
    metrics = {f"loss_{name}": Metric(AggregationType.SUM, term.detach()) for name, term in told.items()}
    if TEACHER_IDS in data:
        metrics |= teacher_metrics(model_output, data)
    if MARGIN in data and (pairs := tokens[[*weights].index(Kind.PREFERENCE.value)]):
        metrics |= pair_metrics(data, pairs)
    counts = {name: Metric(AggregationType.SUM, n * data["dp_size"]) for name, n in _token_counts(data).items()}
    return loss, metrics | counts


def term_shares(info: DistillationInfo, tokens: Sequence[float]) -> dict[str, float]:
    """Return what each term is multiplied by, beside its weight.

    Args:
        info: Whose `token_mean` says how terms are aggregated. DPO's term, a mean over pairs, has no share.
        tokens: Trained tokens of each term in the mini-batch of all ranks, in the order of the weights.
    """
    shares = dict.fromkeys(info.weights, 1.0)
    if info.token_mean:
        counted = dict(zip(info.weights, tokens, strict=True))
        counted.pop(Kind.PREFERENCE.value, None)
        total = max(sum(counted.values()), 1)
        shares |= {name: number / total for name, number in counted.items()}
    return shares


def _example_sums(model_output: dict[str, torch.Tensor], data: TensorDict, terms: int) -> torch.Tensor:
    """Return the sum of -log p over the trained tokens of each term, for DPO of its pairs' losses, shape (terms,)."""
    # The engine autocasts to bfloat16, whose steps near a loss of 10 are 0.06, so the sums are taken in float32.
    log_probs = no_padding_2_padding(model_output["log_probs"], data).float()
    mask = torch.nested.to_padded_tensor(data["response_mask"], 0.0).float()
    nll: torch.Tensor = -(log_probs * mask).sum(dim=1)
    losses = pair_losses(nll, data) if MARGIN in data else nll
    term_of_row = data[TERM].reshape(-1).long().to(nll.device)
    return losses.new_zeros(terms).index_add(0, term_of_row, losses)


def _tree_sums(model_output: dict[str, torch.Tensor], data: TensorDict) -> torch.Tensor:
    """Return the same sums as `_example_sums`, of prefix trees, with the divergences from teachers."""
    log_probs, targets = model_output["log_probs"].values().float(), data[TARGETS].values()
    # A matrix product would be autocast to bfloat16.
    sums: torch.Tensor = -(log_probs.unsqueeze(1) * targets).sum(dim=0)
    if TEACHER_IDS not in data:
        return sums
    taught: torch.Tensor = model_output["divergence"].values().unsqueeze(1) * data[TAUGHT_TARGETS].values()
    return sums + taught.sum(dim=0)


def _token_counts(data: TensorDict) -> dict[str, int]:
    """Count the tokens of the examples before merging, the tokens that the model computes, and padding tokens."""
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
