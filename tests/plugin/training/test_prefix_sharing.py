"""Under verl's FSDP engine, prefix trees give the same loss and gradients as their examples one by one."""

from __future__ import annotations

import random
import socket
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("verl", reason="verl is not installed")

from verl.utils import tensordict_utils as tu

from end_to_end.sft_update import batch, examples, worker
from end_to_end.tiny_model import make_tiny_model
from leafe_verl.plugin.cpu.platform import prepare_engine
from leafe_verl.plugin.training.prefix_batch import in_shared_prefix_order, trained_examples, tree_batch
from leafe_verl.plugin.training.sft_worker import SFTTrainingWorker
from leafe_verl.plugin.wire import PARENTS, TARGETS

LIMIT = 160
"""Tokens of a micro-batch, where they are counted."""


def tokens(number, seed=0):
    return random.Random(seed).choices(range(3, 250), k=number)


def siblings():
    """Three first actions at one rollback point, one of them longer and cut, and a rehearsal of the whole path."""
    history, observation = tokens(30, 1), tokens(12, 2)
    first, second, third = [3, *tokens(8, 3)], [4, *tokens(19, 4)], [5, *tokens(4, 5)]
    last = tokens(14, 6)
    return [
        (history, first, [1] * 9, 0),
        (history, second, [1] * 18 + [0] * 2, 0),
        (history, third, [1] * 5, 0),
        (history, first + observation + last, [1] * 9 + [0] * 12 + [1] * 14, 1),
    ]


CASES = {
    "ragged trees": examples(),
    "siblings at one rollback point, several targets on one path": siblings(),
    "a single example": examples()[:1],
    "no rehearsal": siblings()[:3],
    "one example twice, and as the beginning of another": [siblings()[0], siblings()[0], siblings()[3]],
    "nothing in common": [(tokens(7, seed), tokens(5, -seed), [1] * 5, seed % 2) for seed in range(1, 5)],
    "an example at the length limit": [(tokens(LIMIT - 10, 7), tokens(10, 8), [1] * 10, 0), *siblings()],
    "a row of padding": [*siblings(), ([2], [2], [0], 0)],
    "nothing to train": [([2], [2], [0], 0)],
}
SETTINGS = {
    "FSDP2": {},
    "recomputed activations": {"model": {"enable_gradient_checkpointing": True}},
    "LoRA": {"model": {"lora_rank": 4, "lora_alpha": 8, "target_modules": "all-linear"}},
    "offloading": {"engine": {"param_offload": True, "optimizer_offload": True}},
    "micro-batches by tokens": {"engine": {"use_dynamic_bsz": True, "max_token_len_per_gpu": LIMIT}},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def process_group():
    """A group of one, as torchrun would make it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", **address}.items():
            patch.setenv(name, value)
        prepare_engine()
        yield
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module", params=SETTINGS)
def trainer(request, model, process_group):
    """A worker that leaves its weights as they are."""
    built = worker(str(model), lr=0.0, **SETTINGS[request.param])
    torch.manual_seed(0)
    with torch.no_grad():  # LoRA's second matrices begin at zero, which hides the first ones' gradients
        for parameter in built.engine.module.parameters():
            local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
            local.add_(0.02 * torch.randn(local.shape))
    return built


def step(trainer, rows, share, temperature=1.0):
    """Loss terms, token counts and gradients of one mini-batch."""
    gradients = {}

    def keep_gradients():
        for name, parameter in trainer.engine.module.named_parameters():
            if parameter.requires_grad:
                gradients[name] = getattr(parameter.grad, "full_tensor", parameter.grad.clone)().clone()
        return type(trainer.engine).optimizer_step(trainer.engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.engine, "optimizer_step", keep_gradients)
        metrics = tu.get(trainer.train_batch(batch(rows, share_prefixes=share, temperature=temperature)), "metrics")
    kept = {name: value for name, value in metrics.items() if name.startswith(("loss_", "tokens"))}
    return {name: sum(each.aggregate() for each in value) for name, value in kept.items()}, gradients


@pytest.mark.parametrize("case", CASES)
def test_shared_prefixes_change_neither_loss_nor_gradients(trainer, case):
    # Padded rows divide into micro-batches; where those are counted in rows, two of them make one.
    rows = CASES[case] + [([2], [2], [0], 0)] * (len(CASES[case]) % 2)
    numbers, gradients = step(trainer, rows, share=True)
    expected, one_by_one = step(trainer, rows, share=False)
    terms, alone = ({name: each[name] for name in each if name.startswith("loss_")} for each in (numbers, expected))
    assert terms == pytest.approx(alone, abs=1e-5) and bool(alone) == (case != "nothing to train")
    assert gradients.keys() == one_by_one.keys() and len(gradients) > 20
    for name, gradient in one_by_one.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=0)
    assert numbers["tokens"] == expected["tokens"]
    assert any(gradient.any() for gradient in gradients.values()) == (case != "nothing to train")


def test_a_temperature_is_that_of_the_softmax_with_shared_prefixes_and_without(trainer):
    numbers, gradients = step(trainer, siblings(), share=True, temperature=0.6)
    expected, one_by_one = step(trainer, siblings(), share=False, temperature=0.6)
    plain, _ = step(trainer, siblings(), share=True)
    for name in ("loss_counterfactual", "loss_rehearsal"):
        assert numbers[name] == pytest.approx(expected[name], abs=1e-5)
        assert abs(numbers[name] - plain[name]) > 1e-3
    for name, gradient in one_by_one.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=0)


def test_siblings_compute_their_history_once(trainer):
    shared, one_by_one = (step(trainer, siblings(), share)[0] for share in (True, False))
    assert one_by_one["tokens"] == shared["tokens"] == 39 + 50 + 35 + 65
    assert shared["tokens_padding"] == 0
    by_tokens = trainer.engine_config.use_dynamic_bsz
    # In one tree: 30 of history, 9 + 12 + 14 along the path, 18 and 5 of the siblings. In two: the history twice.
    assert shared["tokens_computed"] == (88 if by_tokens else 118)


def test_an_example_beyond_the_limit_is_refused(model, process_group):
    built = worker(str(model), engine={"use_dynamic_bsz": True, "max_token_len_per_gpu": 40})
    with pytest.raises(ValueError, match="raise actor_rollout_ref.actor.ppo_max_token_len_per_gpu"):
        built.train_batch(batch(siblings(), share_prefixes=True))


def test_ranks_of_a_sequence_hold_a_tree_together():
    config = SimpleNamespace(use_dynamic_bsz=True, max_token_len_per_gpu=40, ulysses_sequence_parallel_size=2)
    trainer = SimpleNamespace(engine_config=config)
    assert SFTTrainingWorker._num_trees(trainer, [70, 75], [0, 65]) == 1, "70 tokens, and 10 more"
    assert SFTTrainingWorker._num_trees(trainer, [70, 76], [0, 65]) == 2
    with pytest.raises(ValueError, match="an example has 81 tokens, but a micro-batch holds at most 80"):
        SFTTrainingWorker._num_trees(trainer, [81], [0])


def test_what_the_engine_cannot_share_is_trained_one_by_one_with_a_warning(trainer, caplog):
    trainer.engine.unsupported_reason = "it is a test"
    try:
        numbers, _ = step(trainer, siblings(), share=True)
    finally:
        trainer.engine.unsupported_reason = None
    assert numbers["tokens_computed"] >= numbers["tokens"] == 189
    assert "it is a test; leafe.distillation.share_prefixes=false trains on examples one by one" in caplog.text


def test_a_tree_knows_who_trains_each_token():
    found, shared = in_shared_prefix_order(trained_examples(batch(siblings())))
    assert [len(example.token_ids) for example in found] and shared[0] == 0
    merged = tree_batch([found, []], 2, batch(siblings()))
    tree, placeholder = merged[TARGETS].unbind()
    assert tree.sum(dim=0).tolist() == [9 + 18 + 5, 9 + 14]
    assert (tree.sum(dim=1) == 2).sum() == 9, "the action that a counterfactual example and the rehearsal share"
    assert not placeholder.any() and merged[PARENTS].unbind()[1].tolist() == [-1]
