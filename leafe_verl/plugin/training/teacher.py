"""The teachers of losses that are `kl`: one forward pass of the policy before training, at the prompts it sampled from.

For each token of a'_tau that the policy sampled, with p the teacher after (h_tau, e) and q the policy after h_tau,

    loss = share * KL(p_k || q) - (1 - share) * log q(token)

where p_k is p cut to its k most probable ids and divided by their mass. A p that has all its mass on a'_tau makes both
the same, -log q. No gradient goes through p, which stays that of the policy that the phase began with: the one that
sampled a'_tau with e, where a step both explores and trains. A teacher that moved with the policy would follow what it
taught. Recovery targets and held turns have such teachers too; core/teacher.py says what each of them reads.

verl has such a loss, `verl.trainer.distillation`. It does not serve here. Its teachers are inference servers of their
own, which read the very tokens that the student reads. Its loss needs logits of whole sequences, which prefix trees do
not have, and finds the student's own top k for its metrics. Mass outside the top k is dropped, which can make terms
negative, so that it clamps them, and loses their gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.metric.utils import AggregationType, Metric

from leafe_verl.plugin.training.prefix_batch import TaughtTokens, TrainedExample, tree_batch
from leafe_verl.plugin.training.prefix_engine import PrefixTreeEngine
from leafe_verl.plugin.training.prefix_tree import merge
from leafe_verl.plugin.wire import (
    TAUGHT,
    TEACHER_IDS,
    TEACHER_MASS,
    TEACHER_PROBS,
    TEACHER_PROMPT,
    TOP_K,
    DistillationInfo,
    get_taught_tokens,
)

ONE_BY_ONE = {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 1}
"""Settings of verl's engine under which each row, and so each prefix tree, is a micro-batch."""
Cut = Callable[[list[TrainedExample]], list[Sequence[TrainedExample]]]
"""Divides examples into the prefix trees that a rank computes, as many on every rank."""


def ask_teachers(engine: PrefixTreeEngine, data: TensorDict, cut: Cut) -> None:
    """Add to `data`, all rows of a phase on this rank, what their teachers say: the columns of `TEACHER_IDS`.

    Args:
        data: Rows with `TEACHER_PROMPT`, `TAUGHT`, `input_ids` and `response_mask`.
        cut: Called once, on every rank.
    """
    pieces = cut(_questions(data))
    batch = tree_batch(pieces, 1, data)
    tu.assign_non_tensor(batch, **ONE_BY_ONE, **{TOP_K: DistillationInfo.from_batch(data).kl_top_k})
    with engine.eval_mode():
        answers = engine.infer_batch(batch)["model_output"]
    found = _by_row(pieces, answers)
    nothing = TaughtTokens.nothing(answers[TEACHER_IDS].shape[-1])
    rows = [found.get(row, nothing) for row in range(len(data))]
    for name, tensors in {
        TEACHER_IDS: [row.ids for row in rows],
        TEACHER_PROBS: [row.probs for row in rows],
        TEACHER_MASS: [row.mass for row in rows],
    }.items():
        data[name] = torch.nested.as_nested_tensor(tensors, layout=torch.jagged).to(data["input_ids"].device)


def _questions(data: TensorDict) -> list[TrainedExample]:
    """Return what teachers read: their prompts, then the action up to its last token that they are asked about."""
    found = []
    columns = (data[name].unbind() for name in (TEACHER_PROMPT, "input_ids", "response_mask"))
    for row, (prompt, token_ids, mask) in enumerate(zip(*columns, strict=True)):
        trained = mask.nonzero().reshape(-1)[: int(data[TAUGHT][row])]
        if len(trained):
            begin = len(token_ids) - len(mask)
            whole = (*prompt.tolist(), *token_ids[begin : begin + int(trained[-1]) + 1].tolist())
            places = tuple((trained + len(prompt)).tolist())
            found.append(TrainedExample(whole, places, term=0, length=len(whole), row=row))
    return found


def _by_row(pieces: Sequence[Sequence[TrainedExample]], answers: Mapping[str, torch.Tensor]) -> dict[int, TaughtTokens]:
    """Return the answers about the taught tokens of each row of the batch that the examples come from."""
    found = {}
    columns = (answers[name].cpu().unbind() for name in (TEACHER_IDS, TEACHER_PROBS, TEACHER_MASS))
    for piece, ids, probs, mass in zip(pieces, *columns, strict=True):
        paths = merge([example.token_ids for example in piece]).paths
        places = [[path[place] for place in each.trained] for each, path in zip(piece, paths, strict=True)]
        # The engine answers for each trained token of a tree once, in the order of their places.
        order = {place: index for index, place in enumerate(sorted({place for each in places for place in each}))}
        for example, own in zip(piece, places, strict=True):
            rows = [order[place] for place in own]
            found[example.row] = TaughtTokens(ids[rows], probs[rows], mass[rows])
    return found


def count_taught(data: TensorDict) -> int:
    """Return how many tokens of a mini-batch have a teacher; 0 if no teacher was asked."""
    return int((data[TEACHER_MASS].values() > 0).sum()) if TEACHER_MASS in data else 0


def teacher_metrics(model_output: Mapping[str, torch.Tensor], data: TensorDict) -> dict[str, Metric]:
    """Return the means over a mini-batch's taught tokens, on all ranks, of the divergence and of the teacher's mass.

    A mini-batch without any has no means, since verl averages those of all mini-batches.

    Args:
        model_output: `divergence` of a micro-batch of prefix trees.
        data: That micro-batch, each token of which adds its share.
    """
    tokens = (data[TEACHER_MASS].values() > 0).sum() * data["dp_size"]
    metrics = {"taught_tokens": Metric(AggregationType.SUM, tokens.float())}
    if not (taught := get_taught_tokens(data)):
        return metrics
    sums = {
        "teacher_kl": model_output["divergence"].values().detach().sum(),
        "teacher_mass": data[TEACHER_MASS].values().sum(),
    }
    share = data["dp_size"] / taught
    return metrics | {name: Metric(AggregationType.SUM, value.float() * share) for name, value in sums.items()}
