"""Under torchrun: one update of the SFT role on fixed ragged examples. Writes losses and a weight norm as JSON.

torchrun --nproc-per-node N sft_update.py MODEL OUTPUT [--remove-padding] [--share-prefixes] [--pairs] [--teachers]
    [--strategy fsdp2] [--ranks-of-a-sequence 1]
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig, TrainingWorkerConfig

from leafe_verl.plugin.cpu.platform import prepare_engine
from leafe_verl.plugin.training.losses import distillation_loss
from leafe_verl.plugin.training.sft_worker import SFTTrainingWorker
from leafe_verl.plugin.wire import PAIR, SIDE, TAUGHT, TEACHER_PROMPT, TEACHER_SHARE, TERM, DistillationInfo

NUM_EXAMPLES = 8
MODEL = {
    "use_remove_padding": False,
    "enable_gradient_checkpointing": False,
    # Takes float32 and, from the position ids, packed rows; flash-attention takes 16 bits alone.
    "override_config": {"attn_implementation": "sdpa"},
}
ENGINE = {
    "strategy": "fsdp2",
    "mixed_precision": {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
    "use_torch_compile": False,
    "micro_batch_size_per_gpu": 2,
    "use_dynamic_bsz": False,
}
OPTIM = {"total_training_steps": 10}
FIGURES = ("pair_accuracy", "reward_margin", "teacher_kl", "teacher_mass", "taught_tokens")
Row = tuple[list[int], list[int], list[int], int]
"""Prompt, response, mask of the response, and place of the term in `weights`."""


def nested(rows: list[list[int]]) -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


def examples() -> list[Row]:
    """Prompts of 5 to 80 tokens, most of which begin like another, responses of 3 to 60, some tokens untrained."""
    draw = random.Random(0)
    rows: list[Row] = []
    for index in range(NUM_EXAMPLES):
        stem = [*itertools.chain(*draw.choice(rows)[:2])] if index % 4 else []
        prompt = stem[: draw.randrange(41)] + draw.choices(range(3, 250), k=draw.randrange(5, 40))
        response = draw.choices(range(3, 250), k=draw.randrange(3, 60))
        rows.append((prompt, response, [int(i == 0 or draw.random() < 0.8) for i in range(len(response))], index % 2))
    return rows


def batch(rows: list[Row], *, share_prefixes: bool = False, temperature: float = 1.0, **plain: Any) -> TensorDict:
    """Return a mini-batch as verl's worker gets it. `plain` are entries that are no tensors."""
    prompts, responses, masks, terms = map(list, zip(*rows, strict=True))
    whole = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    data = TensorDict(
        {
            "prompts": nested(prompts),
            "responses": nested(responses),
            "response_mask": nested(masks),
            "loss_mask": nested(masks),
            "input_ids": nested(whole),
            "position_ids": nested([list(range(len(row))) for row in whole]),
            TERM: torch.tensor(terms),
        },
        batch_size=len(rows),
    )
    info = DistillationInfo({"rehearsal": 0.5, "counterfactual": 1.0}, updates=100, share_prefixes=share_prefixes)
    return tu.assign_non_tensor(data, temperature=temperature, **info.to_extra_info(), **plain)


PADDING: tuple[Row, int, int] = (([2], [2], [0], 0), 0, 0)


def pairs(number: int = 5) -> list[tuple[Row, int, int]]:
    """Chosen and rejected answers to one prompt each, in turn, a rehearsal and padding; with their pairs and sides."""
    draw = random.Random(1)
    rows: list[tuple[Row, int, int]] = []
    for pair in range(number):
        prompt = draw.choices(range(3, 250), k=draw.randrange(5, 40))
        for side in (1, -1):
            answer = draw.choices(range(3, 250), k=draw.randrange(3, 30))
            rows.append(((prompt, answer, [1] * len(answer), 1), pair, side))
    return [*rows, ((*examples()[0][:3], 0), 0, 0), PADDING]


def pair_batch(rows: list[tuple[Row, int, int]], **plain: Any) -> TensorDict:
    """Return a mini-batch for DPO of rows with their pairs and sides."""
    data = batch([row for row, _, _ in rows], **plain)
    data[PAIR], data[SIDE] = torch.tensor([row[1] for row in rows]), torch.tensor([row[2] for row in rows])
    info = DistillationInfo({"rehearsal": 0.5, "preference": 1.0}, 100, False, pairs=5, dpo_beta=0.3)
    return tu.assign_non_tensor(data, **info.to_extra_info())


def dealt_pairs(rank: int, ranks: int) -> TensorDict:
    """Return a rank's mini-batch: of two ranks, the first has three and a half pairs, and the second the others."""
    rows = pairs()
    mine = rows if ranks == 1 else [rows[:7], rows[7:]][rank]
    mine = mine + [PADDING] * (-len(mine) % 8 if ranks > 1 else 0)
    return pair_batch(mine, mini_batch_size=len(mine) * ranks, epochs=3)


TaughtRow = tuple[Row, list[int], int]
"""A row, the prompt of its teacher, and the number of first trained tokens that the teacher is asked about."""
NO_TEACHER: tuple[list[int], int] = ([2], 0)


def taught_rows() -> list[TaughtRow]:
    """Branches at one history whose actions begin alike, with an experience each, a turn that is held by a teacher at
    its own prompt, and rows without a teacher.

    The last token of the first action was added, and the first two of the second are thoughts that are not trained on.
    """
    draw = random.Random(2)
    history, other, stem = (draw.choices(range(3, 250), k=number) for number in (30, 12, 6))
    rows: list[TaughtRow] = []
    for prompt, skipped, added in ((history, 0, 1), (history, 2, 0), (history, 0, 0), (other, 0, 0)):
        action = stem + draw.choices(range(3, 250), k=draw.randrange(3, 20))
        mask = [0] * skipped + [1] * (len(action) - skipped)
        told = prompt[:-2] + draw.choices(range(3, 250), k=draw.randrange(4, 15)) + prompt[-2:]
        rows.append(((prompt, action, mask, 1), told, len(action) - skipped - added))
    untaught = (history, stem + draw.choices(range(3, 250), k=5), [1] * 11, 1)
    rehearsed = (history, [*rows[0][0][1], *draw.choices(range(3, 250), k=9)], [1] * len(rows[0][0][1]) + [0] * 9, 0)
    held = ((other, stem + draw.choices(range(3, 250), k=4), [1] * 10, 0), other, 10)
    return [*rows, held, *((row, *NO_TEACHER) for row in (untaught, rehearsed, PADDING[0]))]


def taught_batch(rows: list[TaughtRow], *, kl_share: float = 0.7, kl_top_k: int = 20, **plain: Any) -> TensorDict:
    """Return a mini-batch for `kl` of rows with their teachers. `kl_share` is that of the counterfactual ones."""
    data = batch([row for row, _, _ in rows], **plain)
    data[TEACHER_PROMPT], data[TAUGHT] = nested([row[1] for row in rows]), torch.tensor([row[2] for row in rows])
    data[TEACHER_SHARE] = torch.tensor([kl_share if row[0][3] else 1.0 for row in rows])
    weights = {"rehearsal": 0.5, "counterfactual": 1.0}
    info = DistillationInfo(weights, 100, True, teachers=5, kl_top_k=kl_top_k)
    return tu.assign_non_tensor(data, **info.to_extra_info())


def worker(
    path: str,
    *,
    lr: float = 1e-3,
    model: Mapping[str, Any] = MODEL,
    engine: Mapping[str, Any] = ENGINE,
    optim: Mapping[str, Any] = OPTIM,
) -> SFTTrainingWorker:
    """A worker in float32, with these settings of its model, engine and optimiser beside the usual ones."""
    config = TrainingWorkerConfig(
        model_type="language_model",
        model_config=HFModelConfig(path=path, **{**MODEL, **model}),
        engine_config=FSDPEngineConfig(**{**ENGINE, **engine}),
        optimizer_config=FSDPOptimizerConfig(lr=lr, **{**OPTIM, **optim}),
        checkpoint_config=CheckpointConfig(),
    )
    built = SFTTrainingWorker(config=config)
    built.reset()
    built.set_loss_fn(distillation_loss)
    return built


def _last(values: Any) -> float:
    """Return a metric of the last update."""
    return float(values[-1] if isinstance(values, list) else values.aggregate())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("output", type=Path)
    parser.add_argument("--remove-padding", action="store_true")
    parser.add_argument("--share-prefixes", action="store_true")
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--teachers", action="store_true")
    parser.add_argument("--strategy", default="fsdp2", choices=["fsdp", "fsdp2"])
    parser.add_argument("--ranks-of-a-sequence", type=int, default=1, help="verl's sequence parallelism")
    options = parser.parse_args()
    prepare_engine()
    engine = {"strategy": options.strategy, "use_orig_params": options.strategy == "fsdp"}
    built = worker(
        options.model,
        model={"use_remove_padding": options.remove_padding},
        engine={**engine, "ulysses_sequence_parallel_size": options.ranks_of_a_sequence},
    )
    rank, ranks = built.engine.get_data_parallel_rank(), built.engine.get_data_parallel_size()
    data = batch(examples()[rank::ranks], share_prefixes=options.share_prefixes, mini_batch_size=NUM_EXAMPLES)
    if options.pairs:
        data = dealt_pairs(rank, ranks)
    if options.teachers:
        data = taught_batch(taught_rows()[rank::ranks], mini_batch_size=len(taught_rows()), epochs=3)
    output = built.train_mini_batch(data.to(built.device_name))  # None on all ranks of a sequence but the first
    norms = [getattr(p, "full_tensor", p.detach)().float().norm().item() for p in built.engine.module.parameters()]
    if torch.distributed.get_rank() == 0:
        metrics = tu.get(output, "metrics")
        losses = {k: _last(v) for k, v in metrics.items() if "loss" in k or k in FIGURES}
        options.output.write_text(json.dumps({**losses, "weights": sum(norms)}))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
