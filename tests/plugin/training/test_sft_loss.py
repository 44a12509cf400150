"""The loss against a computation by hand, whole and split over micro-batches and ranks."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("verl", reason="verl is not installed")

from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from leafe_verl.plugin.training.losses import distillation_loss, term_shares
from leafe_verl.plugin.wire import TERM, DistillationInfo, set_term_tokens

PROMPTS = [[5, 6, 7], [5, 6], [8]]
RESPONSES = [[1, 2], [3, 4, 9, 1], [2, 2, 2]]
# The second row is a rehearsal over two turns with an observation of one token between them.
MASKS = [[1, 1], [1, 1, 0, 1], [0, 1, 1]]
TERMS = [0, 1, 0]
# log-prob at position i is that of token i + 1; the last position of a row predicts nothing.
LOG_PROBS = [[-9.0, -9.0, -1.0, -2.0, -9.0], [-9.0, -3.0, -4.0, -9.0, -5.0, -9.0], [-9.0, -6.0, -7.0, -9.0]]


def nested(rows, dtype=torch.int64):
    return torch.nested.as_nested_tensor([torch.tensor(row, dtype=dtype) for row in rows], layout=torch.jagged)


def batch(rows, *, beta=1.0, dp_size=1, tokens=(4, 3), token_mean=False):
    data = TensorDict(
        {
            "input_ids": nested([PROMPTS[i] + RESPONSES[i] for i in rows]),
            "prompts": nested([PROMPTS[i] for i in rows]),
            "responses": nested([RESPONSES[i] for i in rows]),
            "response_mask": nested([MASKS[i] for i in rows]),
            TERM: torch.tensor([TERMS[i] for i in rows]),
        },
        batch_size=len(rows),
    )
    weights = {"counterfactual": 1.0, "rehearsal": beta}
    info = DistillationInfo(weights, updates=1, share_prefixes=True, token_mean=token_mean)
    tu.assign_non_tensor(data, dp_size=dp_size, **info.to_extra_info())
    set_term_tokens(data, tokens)
    return {"log_probs": nested([LOG_PROBS[i] for i in rows], torch.float32)}, data


def test_each_term_is_the_mean_over_its_own_tokens():
    loss, metrics = distillation_loss(*batch([0, 1, 2], beta=0.5))
    loss_cf = (1 + 2 + 6 + 7) / 4
    loss_reh = (3 + 4 + 5) / 3
    assert loss.item() == pytest.approx(loss_cf + 0.5 * loss_reh)
    assert metrics["loss_counterfactual"].aggregate() == pytest.approx(loss_cf)
    assert metrics["loss_rehearsal"].aggregate() == pytest.approx(loss_reh)


def test_with_the_token_mean_every_trained_token_counts_the_same():
    loss, metrics = distillation_loss(*batch([0, 1, 2], beta=0.5, token_mean=True))
    assert loss.item() == pytest.approx((1 + 2 + 6 + 7 + 0.5 * (3 + 4 + 5)) / 7)
    assert metrics["loss_rehearsal"].aggregate() == pytest.approx((3 + 4 + 5) / 3), "terms are shown as they are"
    parts = [distillation_loss(*batch([i], beta=0.5, token_mean=True))[0] for i in range(3)]
    assert sum(parts).item() == pytest.approx(loss.item()), "micro-batches add up"


def test_pairs_of_dpo_have_no_tokens_to_share():
    info = DistillationInfo({"preference": 1.0, "rehearsal": 1.0}, updates=1, share_prefixes=False, token_mean=True)
    assert term_shares(info, (2, 30)) == {"preference": 1.0, "rehearsal": 1.0}
    assert term_shares(info, (2, 0)) == {"preference": 1.0, "rehearsal": 0.0}


def test_micro_batches_add_up():
    whole, _ = distillation_loss(*batch([0, 1, 2]))
    parts = [distillation_loss(*batch([i]))[0] for i in range(3)]
    assert sum(parts).item() == pytest.approx(whole.item())


def test_ranks_average_to_the_whole():
    """FSDP averages gradients over ranks, each of which normalises by the tokens of all."""
    whole, _ = distillation_loss(*batch([0, 1, 2]))
    ranks = [distillation_loss(*batch(rows, dp_size=2))[0] for rows in ([0, 1], [2])]
    assert sum(ranks).item() / 2 == pytest.approx(whole.item())


@pytest.mark.parametrize("rows, absent", [([0, 2], "loss_rehearsal"), ([1], "loss_counterfactual")])
def test_a_kind_without_examples_contributes_nothing_and_is_not_averaged(rows, absent):
    tokens = (4, 0) if absent == "loss_rehearsal" else (0, 3)
    loss, metrics = distillation_loss(*batch(rows, tokens=tokens))
    assert absent not in metrics
    assert torch.isfinite(loss)


def test_sums_are_taken_in_float32():
    output, data = batch([0, 1, 2])
    output["log_probs"] = nested(LOG_PROBS, torch.bfloat16)
    assert distillation_loss(output, data)[0].dtype == torch.float32
