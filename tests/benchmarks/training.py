"""Examples a second: LEAFE's SFT role, which shares prefixes, against verl's own SFT worker on the same examples.

    python tests/benchmarks/training.py mbpp sokoban --model models/smollm2-135m-instruct --rounds 3

Examples are those of exploration trees of 8 attempts (4 roots, depth 2), drawn by LEAFE's own rules: by default trees
that a scripted policy grows here on the tasks in this package, tokenised as in training; with `NAME=STORE` those of a
run's experience store. All are taken in optimiser steps of `--examples`, tree by tree, with micro-batches of at most
`--tokens` tokens, in turns, so that other work on the machine hits all contestants. Weights stay as they are
(learning rate 0), and the contestants' losses must agree.

verl, padded   verl's TrainingWorker and sft_loss, as verl/trainer/sft_trainer.py makes them, use_remove_padding=false
verl, packed   the same with use_remove_padding=true
leafe          the SFT role of this package: prefixes once, logits at targets alone

All on verl's FSDP2 engine, in one process. Prints tables and, last, a line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import json
import os
import random
import socket
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import torch
from tensordict import TensorDict
from transformers import AutoTokenizer
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig, TrainingWorkerConfig
from verl.workers.engine_workers import TrainingWorker
from verl.workers.utils.losses import sft_loss

from leafe_verl import embedded
from leafe_verl.core import ExplorationTree, Explorer, History, Settings, TokenSequence, Turn, build_examples
from leafe_verl.environments import make
from leafe_verl.environments.sokoban import parse_move
from leafe_verl.environments.sokoban_rooms import MOVES, Room, make_room
from leafe_verl.plugin.cpu.platform import cpu_dtype, prepare_engine
from leafe_verl.plugin.rollout.chat_format import ask_tokenizer
from leafe_verl.plugin.rollout.server_policy import ServerPolicy
from leafe_verl.plugin.training.losses import distillation_loss
from leafe_verl.plugin.training.sft_worker import SFTTrainingWorker
from leafe_verl.plugin.wire import TERM, DistillationInfo
from leafe_verl.task_files import read_tasks
from leafe_verl.trees import read_trees
from runs import ratio

ROOTS = 4
Step = list[TokenSequence]
"""Examples of one optimiser step."""


class Scripted(ServerPolicy):
    """Turns drawn from what a model might say; the tokenisation of training."""

    draw: random.Random
    answers: Callable[[random.Random, History], str]

    async def act(self, history: History, request: str) -> Turn:
        return self._said(self.answers(self.draw, history))

    async def reflect(self, history: History, schema: Mapping[str, Any], request: str) -> Turn:
        step = self.draw.randint(1, schema["properties"]["step"]["maximum"])
        return self._said(json.dumps({"step": step, "experience": "Another way is needed from here on."}))

    def _said(self, text: str) -> Turn:
        tokenizer = self.builder.tokenizer
        return Turn(text, (*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id))


def mbpp(tokenizer: Any) -> list[ExplorationTree]:
    """Solutions of our tasks, one in seven of them to the task at hand."""
    tasks = read_tasks(str(embedded.TRAIN_FILE), "mbpp")[:24]
    programs = [json.loads(line)["code"] for line in embedded.TRAIN_FILE.read_text().splitlines()][: len(tasks)]

    def answers(right: str, draw: random.Random, history: History) -> str:
        program = right if draw.random() < 0.15 else draw.choice(programs)
        return f"The function below does what the tests ask for.\n\n```python\n{program}\n```"

    return [
        _grown(task, functools.partial(answers, right), tokenizer, horizon=4)
        for task, right in zip(tasks, programs, strict=True)
    ]


def sokoban(tokenizer: Any) -> list[ExplorationTree]:
    """Moves with a thought before each, every other one on a shortest way to the solution; 20 steps at most."""
    tasks = read_tasks(str(embedded.TRAIN_FILE.with_name("embedded_sokoban_train.jsonl")), "sokoban")[:6]

    def answers(room: Room, draw: random.Random, history: History) -> str:
        for message in history.messages:
            if message["role"] == "assistant":
                room = room.moved(MOVES[str(parse_move(message["content"]))])
        right = next_move(room) if draw.random() < 0.5 else None
        move = right or draw.choice([*MOVES])
        return f"Thought: The box has to come nearer to its target, and the way {move} seems free.\nAction: {move}"

    return [
        _grown(task, functools.partial(answers, make_room(task.data["seed"])), tokenizer, horizon=20) for task in tasks
    ]


@functools.cache
def next_move(room: Room) -> str | None:
    """The first move of a shortest solution; None where there is none."""
    seen, waiting = {room}, deque([(room, "")])
    while waiting:
        here, first = waiting.popleft()
        for move, direction in MOVES.items():
            there = here.moved(direction)
            if there.solved:
                return first or move
            if there not in seen:
                seen.add(there)
                waiting.append((there, first or move))
    return None


def _grown(task: Any, answers: Callable[..., str], tokenizer: Any, horizon: int) -> ExplorationTree:
    settings = Settings.from_mapping({"environment": {"horizon": horizon}})
    policy = Scripted(
        client=SimpleNamespace(),  # type: ignore[arg-type]
        chat=ask_tokenizer(tokenizer, family="qwen"),
        sampling_params={},
        window=8192,
        request_id=task.key,
        generation=settings.generation,
        reflection=settings.reflection,
    )
    policy.draw, policy.answers = random.Random(task.key), answers
    explorer = Explorer(functools.partial(make, task.environment), policy, settings, asyncio.Semaphore(1))
    return asyncio.run(explorer.explore(task, roots=ROOTS))


SETS: dict[str, Callable[[Any], list[ExplorationTree]]] = {"mbpp": mbpp, "sokoban": sokoban}


def steps_of(trees: Sequence[ExplorationTree], events: str, examples: int, steps: int) -> list[Step]:
    """The first examples of the trees, tree by tree, in optimiser steps."""
    settings = Settings.from_mapping({"distillation": {"events": events, "rehearsal_share": 0.4}}).distillation
    found = [example.sequence for tree in trees for example in build_examples(tree, settings, seed=0)]
    whole = [found[i : i + examples] for i in range(0, len(found) - examples + 1, examples)]
    if not whole:
        raise SystemExit(f"{len(trees)} trees gave {len(found)} examples, fewer than one step of {examples}")
    return whole[:steps]


def batch_of(step: Step) -> TensorDict:
    """What both workers need: verl's reads `loss_mask`, ours `response_mask`; one term, and so verl's own loss."""

    def nested(rows: list[Sequence[int]]) -> torch.Tensor:
        return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)

    splits = [sequence.prompt_length for sequence in step]
    data = TensorDict(
        {
            "input_ids": nested([s.token_ids for s in step]),
            "position_ids": nested([range(len(s.token_ids)) for s in step]),
            "loss_mask": nested([s.mask for s in step]),
            "prompts": nested([s.token_ids[:split] for s, split in zip(step, splits, strict=True)]),
            "responses": nested([s.token_ids[split:] for s, split in zip(step, splits, strict=True)]),
            "response_mask": nested([s.mask[split:] for s, split in zip(step, splits, strict=True)]),
            TERM: torch.zeros(len(step), dtype=torch.long),
        },
        batch_size=len(step),
    )
    info = DistillationInfo({"sft": 1.0}, updates=1_000_000, share_prefixes=True)
    return tu.assign_non_tensor(data, temperature=1.0, **info.to_extra_info())


def worker(worker_class: type[TrainingWorker], loss: Any, model: str, tokens: int) -> TrainingWorker:
    config = TrainingWorkerConfig(
        model_type="language_model",
        model_config=HFModelConfig(
            path=model,
            use_remove_padding=True,
            enable_gradient_checkpointing=torch.cuda.is_available(),
            override_config={} if torch.cuda.is_available() else {"attn_implementation": "sdpa"},
        ),
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            use_torch_compile=False,
            use_dynamic_bsz=True,
            max_token_len_per_gpu=tokens,
            mixed_precision={"param_dtype": "bfloat16" if torch.cuda.is_available() else cpu_dtype()},
        ),
        optimizer_config=FSDPOptimizerConfig(lr=0.0, total_training_steps=1000),
        checkpoint_config=CheckpointConfig(),
    )
    built = worker_class(config=config)
    built.reset()
    built.set_loss_fn(loss)
    return built


@dataclass(frozen=True)
class Contestant:
    trainer: TrainingWorker
    remove_padding: bool

    def measure(self, steps: list[Step]) -> tuple[float, list[float], float]:
        """Seconds, losses, and tokens that were computed (of ours alone)."""
        batches = [batch_of(step).to(self.trainer.device_name) for step in steps]
        for batch in batches:
            tu.assign_non_tensor(batch, use_remove_padding=self.remove_padding)
        begin = time.perf_counter()
        metrics = [tu.get(self.trainer.train_batch(batch), "metrics") for batch in batches]
        seconds = time.perf_counter() - begin
        computed = sum(value.aggregate() for each in metrics for value in each.get("tokens_computed", []))
        return seconds, [each["loss"] for each in metrics], computed


def contestants(model: str, tokens: int) -> dict[str, Contestant]:
    theirs = worker(TrainingWorker, functools.partial(sft_loss, config=None), model, tokens)
    ours = worker(SFTTrainingWorker, distillation_loss, model, tokens)
    return {
        "verl, padded": Contestant(theirs, remove_padding=False),
        "verl, packed": Contestant(theirs, remove_padding=True),
        "leafe": Contestant(ours, remove_padding=True),
    }


def compare(trainers: dict[str, Contestant], steps: list[Step], rounds: int) -> dict[str, Any]:
    """Rounds in turns after a small step of warming up; rates are examples a second."""
    number = sum(map(len, steps))
    for contestant in trainers.values():
        contestant.measure([steps[0][:2]])
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    losses, computed = {}, 0.0
    for _ in range(rounds):
        for name, contestant in trainers.items():
            took, losses[name], tokens = contestant.measure(steps)
            seconds[name].append(took)
            print(f"{name}: {number / took:.3f} examples/s", file=sys.stderr, flush=True)
            computed = tokens or computed
    for name, found in losses.items():
        if any(abs(a - b) > 0.05 for a, b in zip(found, losses["leafe"], strict=True)):
            raise RuntimeError(f"losses differ beyond bfloat16: {name} {found}, leafe {losses['leafe']}")
    rates = {name: [number / took for took in each] for name, each in seconds.items()}
    alternative = max((name for name in rates if name != "leafe"), key=lambda name: statistics.median(rates[name]))
    ratios = [ours / theirs for ours, theirs in zip(rates["leafe"], rates[alternative], strict=True)]
    return {
        "examples": number,
        "steps": len(steps),
        "tokens": sum(len(s.token_ids) for s in itertools.chain(*steps)),
        "tokens_computed": int(computed),
        "trained_tokens": sum(sum(s.mask) for s in itertools.chain(*steps)),
        "examples_per_second": {name: [round(rate, 3) for rate in each] for name, each in rates.items()},
        "alternative": alternative,
        "ratio": round(statistics.median(ratios), 2),
        "ratio_least": round(min(ratios), 2),
        "ratio_most": round(max(ratios), 2),
    }


def show(name: str, result: dict[str, Any]) -> None:
    counted = "{examples} examples in {steps} optimiser steps; {tokens} tokens one by one, {tokens_computed} computed"
    print(f"\n{name}: {counted.format(**result)} by leafe, {result['trained_tokens']} trained on")
    print(f"{'':14} {'examples/s':>11} {'least':>8} {'most':>8} {'leafe is':>9}")
    ours = statistics.median(result["examples_per_second"]["leafe"])
    for contestant, rates in result["examples_per_second"].items():
        median = statistics.median(rates)
        print(f"{contestant:14} {median:11.3f} {min(rates):8.3f} {max(rates):8.3f} {ours / median:8.2f}x")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=[*SETS], help=f"{', '.join(SETS)}, or NAME=STORE; all by default")
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=8, help="of an optimiser step")
    parser.add_argument("--steps", type=int, default=1, help="optimiser steps of a round")
    parser.add_argument("--tokens", type=int, default=4096, help="of a micro-batch")
    parser.add_argument("--events", default="every", help="leafe.distillation.events")
    options = parser.parse_args(arguments)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    prepare_engine()
    model = str(embedded.prepare_model(Path(options.model)) if "smollm2" in options.model else options.model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    trainers = contestants(model, options.tokens)
    results = {}
    for each in options.sets:
        name, _, store = each.partition("=")
        trees = [tree for tree, _ in read_trees(Path(store))] if store else SETS[name](tokenizer)
        steps = steps_of(trees, options.events, options.examples, options.steps)
        results[name] = compare(trainers, steps, options.rounds)
        show(name, results[name])
    torch.distributed.destroy_process_group()
    machine = {"processors": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "device": get_device()}
    ratios = [_ratio(name, result) for name, result in results.items()]
    print(json.dumps({"rounds": options.rounds, "events": options.events, **machine, **results, "ratios": ratios}))


def _ratio(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """A line of run.py's table."""
    rates, alternative = result["examples_per_second"], result["alternative"]
    return ratio(f"examples/s of training, {name}", alternative, rates["leafe"], rates[alternative], "at least 1.5")


def get_device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    main()
