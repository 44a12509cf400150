"""What saturates first from 8 to 512 GPUs, estimated from parts measured here; and 2 replicas against 1.

    python tests/benchmarks/scaling.py --tokens-per-second 2500 --replicas

What no GPU is needed for is measured: how many turns, trees or verdicts a second one process or core of each part can
take. What a GPU samples is assumed (`--tokens-per-second`, of one replica on one GPU; a 72B model on 8 GPUs counts as
an eighth of its replica's rate). The load of a part is what that many GPUs ask of it, by what it can take:

sandbox          verdicts on one core, a turn each                   cores: `--cores` for each GPU, half of them
rollout worker   turns through policy, explorer and tokenizer        one process for each GPU: 8 on a node
load balancer    turns through verl's router, 2 calls each           one process in all
TransferQueue    trees through its controller: records and tags      one process in all
store            trees written to this machine's disk, synced        one process for each GPU, all to one file system
driver           trees listed, fetched and cleared                   one process in all

`--replicas` also collects with 1 and with 2 replicas on this machine, which share its cores. Prints a table and, last,
a line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import ray
import torch
import transfer_queue as tq
from tensordict import TensorDict
from transformers import AutoTokenizer
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder
from verl.workers.rollout.router import GlobalRequestLoadBalancer

from contracts.scenarios import SCENARIOS
from exploring import COMMON, EXPLORING, SAMPLED, per_second
from leafe_verl.core import ExplorationTree, Explorer, Settings
from leafe_verl.embedded import prepare_model
from leafe_verl.plugin.rollout.server_policy import ServerPolicy
from leafe_verl.sandbox import SandboxPool, judge
from leafe_verl.trees import Provenance, TreeWriter
from runs import ROOT, metrics_of, print_table, ratio

CODE = "def longest(words):\n    return max(words, key=len)"
ASSERTS = [f"assert longest({['a', 'b' * n, 'c']!r}) == {'b' * n!r}" for n in (2, 3, 4)]
GPUS = (8, 64, 512)
ATTEMPTS, TURN_TOKENS, RECORDS = 8, 64, 4
"""Attempts of a tree, tokens of a turn, and records of a tree in TransferQueue (its counts and its examples)."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens-per-second", type=float, default=2500.0, help="sampled by a GPU; assumed")
    parser.add_argument("--turn-tokens", type=float, default=200.0, help="of a turn; assumed")
    parser.add_argument("--cores", type=float, default=12.0, help="of the machine for each GPU; assumed")
    parser.add_argument("--replicas", action="store_true", help="also collect with 1 and with 2 replicas")
    options = parser.parse_args(arguments)
    trees, turns_per_second = explored()
    turns = statistics.mean(len(attempt.steps) for tree in trees for attempt in tree.attempts) * ATTEMPTS
    parts = {
        "sandbox": verdicts_per_second() * options.cores / 2,
        "rollout worker": turns_per_second,
        **{"store": trees_per_second(trees) * turns},
    }
    whole = {name: value * (turns if name != "load balancer" else 1) for name, value in through_ray().items()}
    sampled = options.tokens_per_second / options.turn_tokens
    rows = []
    for name, value in [*parts.items(), *whole.items()]:
        loads = [sampled * (1 if name in parts else gpus) / value for gpus in GPUS]
        rows.append([name, f"{value:,.0f}", *(f"{load:.0%}" for load in loads)])
    results: dict[str, Any] = {"turns_per_second": {name: round(it) for name, it in [*parts.items(), *whole.items()]}}
    if options.replicas:
        two, one = replicas(2), replicas(1)
        results["ratios"] = [ratio("sampled tokens/s with 2 replicas on the same cores", "1 replica", two, one)]
    columns = ["part", "turns a second, each or in all", *(f"load at {gpus} GPUs" for gpus in GPUS)]
    print_table(columns, rows, {"assumed": vars(options), "turns_of_a_tree": round(turns, 1), **results})


def explored(number: int = 24) -> tuple[list[ExplorationTree], float]:
    """Trees of Sokoban by a policy that costs nothing, and the turns a second of a core that they took."""
    model = prepare_model(ROOT / "models" / "smollm2-135m-instruct")
    tokenizer = AutoTokenizer.from_pretrained(model)
    scenario = SCENARIOS["sokoban"]()
    settings = Settings.from_mapping({"budget": {"attempts": ATTEMPTS}, "generation": {"max_tokens": TURN_TOKENS}})

    async def explore() -> list[ExplorationTree]:
        explorers = [Explorer(scenario.new, policy_of(tokenizer, settings), settings) for _ in range(number)]
        tasks = [scenario.tasks[index % len(scenario.tasks)] for index in range(number)]
        return await asyncio.gather(*(each.explore(task, 4) for each, task in zip(explorers, tasks, strict=True)))

    begun = time.process_time()
    trees = asyncio.run(explore())
    turns = sum(len(attempt.steps) for tree in trees for attempt in tree.attempts)
    reflections = sum(len(tree.reflections) for tree in trees)
    return trees, (turns + reflections) / (time.process_time() - begun)


def policy_of(tokenizer: Any, settings: Settings) -> ServerPolicy:
    words = [token for token in range(200, 4000) if token not in tokenizer.all_special_ids]
    chance = random.Random(0)

    async def generate(request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> SimpleNamespace:
        sampled = [*chance.choices(words, k=TURN_TOKENS - 1), tokenizer.eos_token_id]
        return SimpleNamespace(token_ids=sampled, log_probs=None, stop_reason="completed", extra_fields={})

    builder = create_continuous_token_builder(tokenizer, model_family="qwen")
    client = SimpleNamespace(generate=generate)
    return ServerPolicy(client, builder, {}, 1 << 20, "tree", settings.generation, settings.reflection)


def verdicts_per_second() -> float:
    """Return the rate of one core."""
    with SandboxPool(workers=1) as pool:
        return rate(lambda: judge(CODE, ASSERTS, "", pool))


def trees_per_second(trees: Sequence[ExplorationTree]) -> float:
    provenance = Provenance("run", 1, 0, "model", "tokenizer", 1, 1)
    remaining = iter(trees * 1000)
    with tempfile.TemporaryDirectory() as folder, TreeWriter(Path(folder)) as writer:
        return rate(lambda: writer.append(next(remaining), provenance))


def rate(call: Callable[[], object], seconds: float = 3.0) -> float:
    """Return the number of calls per second."""
    call()
    begun, calls = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        call()
        calls += 1
    return calls / (time.perf_counter() - begun)


def through_ray(number: int = 512) -> dict[str, float]:
    """Turns a second of the load balancer, trees a second of TransferQueue's controller and of the driver."""
    logging.getLogger("transfer_queue").setLevel(logging.ERROR)  # it would warn of the machine's cores at every call
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        balancer = ray.remote(GlobalRequestLoadBalancer).remote({str(each): None for each in range(64)})
        ray.get(balancer.acquire_server.remote("first"))  # its process is up
        balanced = timed(lambda: ray.get([balancer.acquire_server.remote(str(each)) for each in range(4 * number)]))
        tq.init()
        put_tree("first", ["first_0"])
        keys = [[f"{tree}_{record}" for record in range(RECORDS)] for tree in range(number)]
        put = timed(lambda: [put_tree(f"{tree}", each) for tree, each in enumerate(keys)])
        flat = [key for each in keys for key in each]
        return {
            "load balancer": 4 * number / (2 * balanced),  # a turn acquires and releases
            "TransferQueue": number / put,
            "driver": number / timed(lambda: take(flat)),
        }
    finally:
        ray.shutdown()


def put_tree(uid: str, keys: list[str]) -> None:
    """Write to the queue as verl's rollout worker does in agent_loop_tq.py."""
    ids = torch.nested.as_nested_tensor([torch.ones(512, dtype=torch.int64)] * len(keys), layout=torch.jagged)
    tq.kv_put(key=uid, partition_id="train", tag={"status": "running"})
    fields = TensorDict({"input_ids": ids, "response_mask": ids}, batch_size=len(keys))
    tq.kv_batch_put(keys=keys, partition_id="train", fields=fields, tags=[{"status": "success"}] * len(keys))
    tq.kv_put(key=uid, partition_id="train", tag={"status": "finished"})


def take(keys: list[str]) -> None:
    """Read a batch from the queue as verl's replay buffer and trainer do."""
    tq.kv_list("train")
    tq.kv_batch_get(keys=keys, partition_id="train", select_fields=["response_mask"])
    tq.kv_clear(keys=keys, partition_id="train")


def timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def replicas(number: int) -> list[float]:
    """Sampled tokens a second, step by step."""
    # Two engines bound to the same cores would take turns on one of them, and their threads wait by spinning.
    threads = str(max(len(os.sched_getaffinity(0)) // number, 1))
    free = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": threads}
    overrides = (*COMMON, *EXPLORING, f"trainer.n_gpus_per_node={number}", "trainer.total_training_steps=2")
    return [per_second(step)[SAMPLED] for step in metrics_of("leafe_mbpp", *overrides, **free)[1:]]


if __name__ == "__main__":
    main()
