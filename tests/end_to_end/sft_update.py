"""Under torchrun: one update of the SFT role on fixed ragged examples. Writes losses and a weight norm as JSON.

torchrun --nproc-per-node N sft_update.py MODEL OUTPUT [--remove-padding]
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from tensordict import TensorDict
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig, TrainingWorkerConfig

from leafe_verl.plugin.cpu import prepare_engine
from leafe_verl.plugin.sft_worker import TERM, WEIGHTS, SFTTrainingWorker, distillation_loss

NUM_EXAMPLES = 8


def nested(rows: list[list[int]]) -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


def examples(rank: int, ranks: int) -> TensorDict:
    """This rank's share of the examples: prompts of 5 to 40 tokens, responses of 3 to 60, some tokens untrained."""
    draw = random.Random(0)
    prompts, responses, masks, kinds = [], [], [], []
    for index in range(NUM_EXAMPLES):
        prompts.append([draw.randrange(3, 250) for _ in range(draw.randrange(5, 40))])
        responses.append([draw.randrange(3, 250) for _ in range(draw.randrange(3, 60))])
        masks.append([int(i == 0 or draw.random() < 0.8) for i in range(len(responses[-1]))])
        kinds.append(index % 2)
    mine = range(rank, NUM_EXAMPLES, ranks)
    whole = [prompts[i] + responses[i] for i in mine]
    data = TensorDict(
        {
            "prompts": nested([prompts[i] for i in mine]),
            "responses": nested([responses[i] for i in mine]),
            "response_mask": nested([masks[i] for i in mine]),
            "loss_mask": nested([masks[i] for i in mine]),
            "input_ids": nested(whole),
            "position_ids": nested([list(range(len(row))) for row in whole]),
            TERM: torch.tensor([kinds[i] for i in mine]),
        },
        batch_size=len(mine),
    )
    tu.assign_non_tensor(
        data, mini_batch_size=NUM_EXAMPLES, temperature=1.0, **{WEIGHTS: {"rehearsal": 0.5, "counterfactual": 1.0}}
    )
    return data


def worker(model: str, remove_padding: bool) -> SFTTrainingWorker:
    config = TrainingWorkerConfig(
        model_type="language_model",
        model_config=HFModelConfig(
            path=model,
            use_remove_padding=remove_padding,
            enable_gradient_checkpointing=False,
            # Takes float32 and, from the position ids, packed rows; flash-attention takes 16 bits alone.
            override_config={"attn_implementation": "sdpa"},
        ),
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            dtype="float32",
            use_torch_compile=False,
            micro_batch_size_per_gpu=2,
            use_dynamic_bsz=False,
        ),
        optimizer_config=FSDPOptimizerConfig(lr=1e-3, total_training_steps=10),
        checkpoint_config=CheckpointConfig(),
    )
    built = SFTTrainingWorker(config=config)
    built.reset()
    built.set_loss_fn(distillation_loss)
    return built


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("output", type=Path)
    parser.add_argument("--remove-padding", action="store_true")
    options = parser.parse_args()
    prepare_engine()
    built = worker(options.model, options.remove_padding)
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    data = examples(rank, ranks).to(built.device_name)
    metrics = tu.get(built.train_mini_batch(data), "metrics")
    norms = [p.full_tensor().float().norm().item() for p in built.engine.module.parameters()]
    if rank == 0:
        numbers = {k: float(v[0] if isinstance(v, list) else v.aggregate()) for k, v in metrics.items() if "loss" in k}
        options.output.write_text(json.dumps({**numbers, "weights": sum(norms)}))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
