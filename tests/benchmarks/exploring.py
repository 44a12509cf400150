"""How fast a policy is sampled while it explores.

    python tests/benchmarks/exploring.py --runs 2

Both contestants play the tasks of recipes/leafe_mbpp.sh with its model and as many attempts at once, one after the
other, round by round; nothing is trained. The first step of a run is left out: it warms up.

this    exploration trees: attempts, reflections, branches
verl    multi-turn episodes by verl's own manager, rollout worker, agent loop (ToolAgentLoop) and replay buffer, on the
        same environment: verl_episodes.py

Prints a table and, last, a line of JSON.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from runs import median_and_spread, metrics_of, print_table, ratio

TASKS, ATTEMPTS_AT_ONCE = 16, 4
STEPS = 2
WITHOUT_TRAINING = ("trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=-1")
COMMON = (*WITHOUT_TRAINING, f"data.train_batch_size={TASKS}", f"actor_rollout_ref.rollout.n={ATTEMPTS_AT_ONCE}")
EXPLORING = ("leafe.schedule.stages=explore",)
OF_VERL = (
    "trainer.v1.trainer_mode=verl_episodes",
    "trainer.v1.sampler.custom_sampler.path=null",
    "actor_rollout_ref.rollout.agent.agent_loop_manager_class=null",
    "actor_rollout_ref.rollout.agent.default_agent_loop=verl_episode",
)
SAMPLED, PROCESSED = "sampled tokens", "processed tokens"
"""What is counted by the second: processed are those sampled, and those of prompts that no prefix cache held."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2, help="of each")
    options = parser.parse_args(arguments)
    found: dict[str, list[dict[str, float]]] = {"this": [], "verl": []}
    for _ in range(options.runs):
        found["this"] += explored("leafe_mbpp", f"trainer.total_training_steps={STEPS}")[1:]
        found["verl"] += played_by_verl()[1:]
    rates = {
        what: {name: [per_second(step)[what] for step in steps] for name, steps in found.items()}
        for what in (SAMPLED, PROCESSED)
    }
    rows = [[name, len(found[name]), *(median_and_spread(rates[what][name]) for what in rates)] for name in found]
    alternative = "verl's multi-turn episodes"
    goals = {SAMPLED: "at least 0.95", PROCESSED: "at least 1"}
    ratios = [
        ratio(f"{what}/s while exploring", alternative, *rates[what].values(), goal) for what, goal in goals.items()
    ]
    columns = ["collected by", "steps", *(f"{what} a second" for what in rates)]
    print_table(columns, rows, {"rates": rates, "ratios": ratios})


def per_second(step: Mapping[str, float]) -> dict[str, float]:
    """Return the tokens that a step sampled, and those that it processed, by the second of collecting."""
    sampled, seconds = step["leafe/sampled_tokens"], step["timing_s/gen"]
    prompts, cached = (
        sum(number for name, number in step.items() if name.startswith(f"leafe/{kind}_tokens/"))
        for kind in ("prompt", "cached")
    )
    return {SAMPLED: sampled / seconds, PROCESSED: (sampled + prompts - cached) / seconds}


def explored(recipe: str, *overrides: str) -> list[dict[str, float]]:
    return metrics_of(recipe, *COMMON, *EXPLORING, *overrides)


def played_by_verl() -> list[dict[str, float]]:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    modules = {"VERL_USE_EXTERNAL_MODULES": "verl_episodes", "PYTHONPATH": path}
    return metrics_of("grpo_mbpp", *COMMON, *OF_VERL, f"trainer.total_training_steps={STEPS}", **modules)


if __name__ == "__main__":
    main()
