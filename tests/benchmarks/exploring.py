"""How fast a policy is sampled while it explores, and how many tokens of its prompts need not be read again.

    python tests/benchmarks/exploring.py --runs 2

Both contestants play the tasks of recipes/leafe_mbpp.sh with its model and as many attempts at once, one after the
other, round by round; nothing is trained. The first step of a run is left out: it warms up.

this    exploration trees: attempts, reflections, branches
verl    multi-turn episodes by verl's own manager, rollout worker, agent loop (ToolAgentLoop) and replay buffer, on the
        same environment: verl_episodes.py

The shares of prompt tokens that vLLM took from its prefix cache are vLLM's own (`num_cached_tokens` of each request);
`--long` also takes them from one step of longer attempts: MBPP as on a GPU, four turns of up to 512 tokens, and
Sokoban, up to 12 turns. Prints a table and, last, a line of JSON.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from runs import median_and_spread, metrics_of, print_table, ratio

TASKS, ATTEMPTS_AT_ONCE = 16, 4
STEPS = 2
WITHOUT_TRAINING = ("trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=-1")
COMMON = (*WITHOUT_TRAINING, f"data.train_batch_size={TASKS}", f"actor_rollout_ref.rollout.n={ATTEMPTS_AT_ONCE}")
EXPLORING = ("leafe.schedule.stages=explore",)
ONE_STEP = ("trainer.total_training_steps=1", "data.train_batch_size=4")
LONG = {
    "mbpp, 4 turns of 512": (
        "leafe_mbpp",
        "leafe.environment.horizon=4",
        "leafe.generation.max_tokens=512",
        "leafe.reflection.max_tokens=192",
        "leafe.reflection.max_characters=400",
        "data.max_response_length=3072",
    ),
    "sokoban": ("leafe_sokoban", "leafe.environment.horizon=12"),
}
OF_VERL = (
    "trainer.v1.trainer_mode=verl_episodes",
    "trainer.v1.sampler.custom_sampler.path=null",
    "actor_rollout_ref.rollout.agent.agent_loop_manager_class=null",
    "actor_rollout_ref.rollout.agent.default_agent_loop=verl_episode",
)
KINDS = {
    "explore": ["explore"],
    "reflect": ["reflect"],
    "branch": ["branch"],
    "branch and reflect": ["branch", "reflect"],
}
RATE = "leafe/sampled_tokens_per_s"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2, help="of each")
    parser.add_argument("--long", action="store_true")
    options = parser.parse_args(arguments)
    found: dict[str, list[dict[str, float]]] = {"this": [], "verl": []}
    for _ in range(options.runs):
        found["this"] += explored("leafe_mbpp", f"trainer.total_training_steps={STEPS}")[1:]
        found["verl"] += played_by_verl()[1:]
    rates = {name: [step[RATE] for step in steps] for name, steps in found.items()}
    rows = [[name, len(each), median_and_spread(each)] for name, each in rates.items()]
    ratios = [ratio("sampled tokens/s while exploring", "verl's multi-turn episodes", *rates.values(), "at least 1")]
    shares = {"mbpp": cached(found["this"])}
    if options.long:
        shares |= {name: cached(explored(*overrides, *ONE_STEP)) for name, overrides in LONG.items()}
    for name, each in shares.items():
        cells = (f"{kind} {share:.1%}" for kind, share in each.items())
        rows.append([f"{name}: prompt tokens from vLLM's prefix cache", "", ", ".join(cells)])
    columns = ["collected by", "steps", "sampled tokens a second"]
    print_table(columns, rows, {"rates": rates, "ratios": ratios, "prefix_cache": shares})


def explored(recipe: str, *overrides: str) -> list[dict[str, float]]:
    return metrics_of(recipe, *COMMON, *EXPLORING, *overrides)


def played_by_verl() -> list[dict[str, float]]:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    modules = {"VERL_USE_EXTERNAL_MODULES": "verl_episodes", "PYTHONPATH": path}
    return metrics_of("grpo_mbpp", *COMMON, *OF_VERL, f"trainer.total_training_steps={STEPS}", **modules)


def cached(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    """Share of prompt tokens by what the prompt asked for."""
    shares = {}
    for name, kinds in KINDS.items():
        read, spared = (
            sum(step.get(f"leafe/{it}_tokens/{kind}", 0) for step in steps for kind in kinds)
            for it in ("prompt", "cached")
        )
        if read:
            shares[name] = round(spared / read, 4)
    return shares


if __name__ == "__main__":
    main()
