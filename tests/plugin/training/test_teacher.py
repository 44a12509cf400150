"""The loss `kl` and its gradients are those of a plain computation, however examples are cut into prefix trees."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("verl", reason="verl is not installed")

from verl.utils import tensordict_utils as tu

from end_to_end.sft_update import PADDING, taught_batch, taught_rows, worker
from leafe_verl.plugin.training.prefix_engine import TOKENS_AT_ONCE, log_sums
from leafe_verl.plugin.wire import TEACHER_IDS, TEACHER_MASS, TEACHER_PROBS
from plugin.training.test_prefix_sharing import model, process_group  # noqa: F401  # fixtures

CASES = {
    "a row": ({"micro_batch_size_per_gpu": 1}, 1.0, 20),
    "three rows, both losses": ({"micro_batch_size_per_gpu": 3}, 0.4, 3),
    "all rows, more than the vocabulary": ({"micro_batch_size_per_gpu": 8}, 1.0, 10_000),
    "as many rows as 100 tokens hold": ({"use_dynamic_bsz": True, "max_token_len_per_gpu": 100}, 0.4, 20),
    "offloaded weights": ({"param_offload": True, "optimizer_offload": True}, 1.0, 3),
}
"""Settings of the engine, the share of the divergence, and k."""
ROWS = taught_rows()
TEMPERATURE = 0.7


def logits_of(module, prompt, answer):
    """The logits that predict each token of the answer, at the temperature."""
    return module(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float() / TEMPERATURE


def taught_losses(module, row, told, taught, share, k):
    """The loss of each trained token of a row, the divergences among them, and the teacher's masses."""
    prompt, answer, mask, _ = row
    own = torch.log_softmax(logits_of(module, prompt, answer), dim=-1)
    with torch.no_grad():
        probs, ids = torch.softmax(logits_of(module, told, answer), dim=-1).topk(k)
    losses, divergences, masses = [], [], []
    for place in [place for place, trains in enumerate(mask) if trains]:
        nll = -own[place, answer[place]]
        if len(losses) < taught:
            mass = probs[place].sum()
            cut = probs[place] / mass
            divergence = (cut * (cut.log() - own[place, ids[place]])).sum()
            divergences.append(divergence.item())
            masses.append(mass.item())
            nll = share * divergence + (1 - share) * nll
        losses.append(nll)
    return losses, divergences, masses


def by_hand(module, rows, share, k):
    """The loss, the mean divergence and the mean mass, by plain autograd on whole sequences."""
    terms = {0: [], 1: []}
    divergences, masses = [], []
    for row, told, taught in rows:
        losses, *figures = taught_losses(module, row, told, taught, share if row[3] else 1.0, k)
        terms[row[3]] += losses
        divergences += figures[0]
        masses += figures[1]
    loss = 0.5 * torch.stack(terms[0]).mean() + torch.stack(terms[1]).mean()
    return loss, sum(divergences) / len(divergences), sum(masses) / len(masses)


def gradients_of(module):
    found = ((name, getattr(p.grad, "full_tensor", p.grad.clone)()) for name, p in module.named_parameters())
    return {name: gradient.clone() for name, gradient in found}


def train(built, data, call="train_mini_batch"):
    """The metrics and the gradients of one mini-batch."""
    engine, kept = built.engine, {}

    def keep_gradients():
        kept.update(gradients_of(engine.module))
        return type(engine).optimizer_step(engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "optimizer_step", keep_gradients)
        metrics = tu.get(getattr(built, call)(data), "metrics")
    engine.module.zero_grad()
    return metrics, kept


def value(metric):
    """A metric of the only mini-batch."""
    parts = metric if isinstance(metric, list) else [metric]
    return sum(float(part.aggregate()) if hasattr(part, "aggregate") else float(part) for part in parts)


@pytest.mark.parametrize("engine, share, k", CASES.values(), ids=CASES)
def test_the_gradients_are_those_of_the_divergence(model, process_group, engine, share, k):  # noqa: F811
    built = worker(str(model), lr=0.0, engine=engine)
    data = taught_batch(ROWS, kl_share=share, kl_top_k=k, mini_batch_size=len(ROWS), temperature=TEMPERATURE)
    metrics, gradients = train(built, data)
    vocabulary = built.engine.module.config.vocab_size
    loss, divergence, mass = by_hand(built.engine.module, ROWS, share, min(k, vocabulary))
    loss.backward()
    for name, gradient in gradients_of(built.engine.module).items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4)
    assert any(gradient.any() for gradient in gradients.values())
    assert value(metrics["loss"]) == pytest.approx(loss.item(), abs=1e-4)
    assert value(metrics["teacher_kl"]) == pytest.approx(divergence, abs=1e-4)
    assert value(metrics["teacher_mass"]) == pytest.approx(mass, abs=1e-4)
    assert value(metrics["taught_tokens"]) == sum(taught for _, _, taught in ROWS)


def certain(rows):
    """The columns of teachers that put all their mass on the tokens of the actions."""
    ids, probs, mass = [], [], []
    for (_, answer, mask, _), _, taught in rows:
        tokens = [token for token, trains in zip(answer, mask, strict=True) if trains][:taught]
        ids.append(torch.tensor([[token, 5, 6] for token in tokens or [0]]))
        probs.append(torch.tensor([[float(bool(tokens)), 0.0, 0.0]] * max(len(tokens), 1)))
        mass.append(probs[-1][:, 0])
    columns = {TEACHER_IDS: ids, TEACHER_PROBS: probs, TEACHER_MASS: mass}
    return {name: torch.nested.as_nested_tensor(rows, layout=torch.jagged) for name, rows in columns.items()}


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_a_teacher_that_is_certain_of_the_action_teaches_its_log_likelihood(model, process_group, share):  # noqa: F811
    built = worker(str(model), lr=0.0)
    plain, expected = train(built, taught_batch(ROWS), "train_batch")
    data = taught_batch(ROWS, kl_share=share)
    for name, column in certain(ROWS).items():
        data[name] = column
    metrics, gradients = train(built, data, "train_batch")
    for name in ("loss", "loss_counterfactual", "loss_rehearsal"):
        assert value(metrics[name]) == pytest.approx(value(plain[name]), abs=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-4)
    assert "teacher_kl" not in plain and value(metrics["teacher_mass"]) == pytest.approx(1.0)


def test_the_teacher_is_the_policy_before_the_first_update(model, process_group):  # noqa: F811
    built = worker(str(model), lr=1e-3)
    asked, infer = [], built.engine.infer_batch
    built.engine.infer_batch = lambda *args, **kwargs: asked.append(1) or infer(*args, **kwargs)
    rows = [row for row in ROWS if row[2]]
    data = taught_batch(rows, kl_share=1.0, mini_batch_size=len(rows), epochs=3)
    metrics = tu.get(built.train_mini_batch(data), "metrics")
    assert len(asked) == 1
    masses, divergences = (metrics[name] for name in ("teacher_mass", "teacher_kl"))
    assert masses == pytest.approx([masses[0]] * 3), "it does not move with the policy"
    assert divergences[2] < divergences[0]


def test_rows_of_padding_and_rehearsal_alone_have_nobody_to_ask(model, process_group):  # noqa: F811
    """On one of several ranks no row may have a teacher."""
    built = worker(str(model), lr=0.0)
    rows = [row for row in ROWS if not row[2]]
    metrics, _ = train(built, taught_batch(rows, mini_batch_size=len(rows)))
    assert value(metrics["taught_tokens"]) == 0
    assert not {"teacher_kl", "teacher_mass"} & {*metrics}, "verl takes the mean over mini-batches"
    assert math.isfinite(value(metrics["loss"])) and value(metrics["loss"]) > 1
    nothing = [(PADDING[0], [2], 0)] * 2
    assert value(train(built, taught_batch(nothing, mini_batch_size=2))[0]["loss"]) == 0


def test_a_model_without_prefix_trees_is_refused(model, process_group):  # noqa: F811
    built = worker(str(model), lr=0.0)
    built.engine.unsupported_reason = "LlamaForCausalLM takes images"
    with pytest.raises(ValueError, match=r"is 'kl', and LlamaForCausalLM takes images; expected .* of nll"):
        built.train_mini_batch(taught_batch(ROWS, mini_batch_size=len(ROWS)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_of_logits_are_taken_in_float32(dtype):
    logits = (20 * torch.randn(TOKENS_AT_ONCE + 3, 50, generator=torch.Generator().manual_seed(0))).to(dtype)
    logits.requires_grad_()
    sums = log_sums(logits)
    sums.sum().backward()
    assert sums.dtype == torch.float32
    torch.testing.assert_close(sums, logits.double().logsumexp(-1).float())
    torch.testing.assert_close(logits.grad, logits.detach().float().softmax(-1).to(dtype))
