"""DPO row by row gives the loss and gradients of DPO on whole pairs, however rows are cut into micro-batches."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("verl", reason="verl is not installed")

from torch.nn.functional import logsigmoid
from verl.utils import tensordict_utils as tu

from end_to_end.sft_update import PADDING, pair_batch, pairs, worker
from leafe_verl.plugin.wire import REFERENCE, SIDE
from plugin.training.test_prefix_sharing import model, process_group  # noqa: F401  # fixtures

BETA, PAIRS = 0.3, 5
LENGTHS = {"use_dynamic_bsz": True, "max_token_len_per_gpu": 100}
CUTS = {
    "a row": {"micro_batch_size_per_gpu": 1},
    "a pair": {"micro_batch_size_per_gpu": 2},
    "one and a half pairs": {"micro_batch_size_per_gpu": 3},
    "as many rows as 100 tokens hold": LENGTHS,
}


def by_hand(module, rows, references):
    """DPO's mean loss over the pairs, and half of the rehearsal's mean over tokens, by plain autograd."""
    log_probs = []
    for (prompt, answer, _, _), _, _ in rows:
        logits = module(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
        log_probs.append(torch.log_softmax(logits, -1).gather(1, torch.tensor(answer)[:, None]).sum())
    gained = [each - reference for each, reference in zip(log_probs, references, strict=True)]
    margins = torch.stack([gained[2 * pair] - gained[2 * pair + 1] for pair in range(PAIRS)])
    (rehearsed,) = [row for row, _, side in rows[2 * PAIRS :] if side == 0 and sum(row[2])]
    mask = torch.tensor(rehearsed[2])
    prompt, answer = rehearsed[:2]
    logits = module(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
    nll = -torch.log_softmax(logits, -1).gather(1, torch.tensor(answer)[:, None])[:, 0]
    return -logsigmoid(BETA * margins).mean() + 0.5 * (nll * mask).sum() / mask.sum(), margins


def gradients_of(module):
    whole = ((name, getattr(p.grad, "full_tensor", p.grad.clone)()) for name, p in module.named_parameters())
    return {name: gradient.clone() for name, gradient in whole}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("order", ["pairs", "mixed"])
def test_the_gradients_are_those_of_dpo(model, process_group, cut, order):  # noqa: F811
    built = worker(str(model), lr=0.0, engine=CUTS[cut])
    rows, kept = pairs(), {}
    references = torch.linspace(-90.0, -30.0, len(rows))
    places = list(range(len(rows))) if order == "pairs" else [4, 11, 0, 7, 2, 9, 10, 1, 6, 3, 8, 5]
    data = pair_batch([rows[place] for place in places])
    data[REFERENCE] = references[places]
    engine = built.engine

    def keep_gradients():
        kept.update(gradients_of(engine.module))
        return type(engine).optimizer_step(engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "optimizer_step", keep_gradients)
        metrics = tu.get(built.train_batch(data), "metrics")
    engine.module.zero_grad()
    loss, margins = by_hand(engine.module, rows, references)
    loss.backward()
    for name, gradient in gradients_of(engine.module).items():
        torch.testing.assert_close(kept[name], gradient, atol=1e-5, rtol=1e-4)
    assert any(gradient.any() for gradient in kept.values())
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-4)
    shares = {name: sum(each.aggregate() for each in metrics[name]) for name in ("pair_accuracy", "reward_margin")}
    assert shares["pair_accuracy"] == pytest.approx((margins > 0).float().mean().item())
    assert shares["reward_margin"] == pytest.approx(BETA * margins.mean().item(), abs=1e-3)


def test_the_reference_is_the_policy_before_the_first_update(model, process_group):  # noqa: F811
    built = worker(str(model), lr=1e-3)
    data = pair_batch(pairs(), mini_batch_size=len(pairs()), epochs=4)
    metrics = tu.get(built.train_mini_batch(data), "metrics")
    losses = [sum(each) if isinstance(each, list) else each for each in metrics["loss_preference"]]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5) and losses == sorted(losses, reverse=True)
    assert metrics["pair_accuracy"][0] == 0.0, "a tie is not preferred"
    assert metrics["pair_accuracy"][-1] == pytest.approx(1.0) and metrics["reward_margin"][-1] > 0


def test_a_mini_batch_without_pairs_trains_the_others(model, process_group):  # noqa: F811
    built = worker(str(model), lr=0.0)
    data = pair_batch([pairs()[10], PADDING])
    data[REFERENCE] = torch.zeros(2)
    metrics = tu.get(built.train_batch(data), "metrics")
    assert not data[SIDE].any() and metrics["loss"] > 1 and math.isfinite(metrics["loss"])
