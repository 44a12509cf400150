"""How many tokens of exploring's prompts need not be read again, by vLLM's own count (`num_cached_tokens`).

    python tests/benchmarks/prefixes.py

One step of four tasks of each: MBPP as the recipe plays it without a GPU, MBPP with a GPU's turns, and Sokoban, whose
attempts are long. Prints a table and, last, a line of JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from exploring import explored
from runs import print_table

READS_PROMPT = "leafe.reflection.reads=prompt"
FOUR_TURNS = (
    "leafe_mbpp",
    "leafe.environment.horizon=4",
    "leafe.generation.max_tokens=512",
    "leafe.reflection.max_tokens=192",
    "leafe.reflection.max_characters=400",
    "data.max_response_length=3072",
)
ONE_STEP = ("trainer.total_training_steps=1", "data.train_batch_size=4")
CONTESTANTS = {
    "MBPP, 2 turns of 64 tokens": ("leafe_mbpp",),
    "the same, a reflection reads the branch's prompt": ("leafe_mbpp", READS_PROMPT),
    "MBPP, 4 turns of 512 tokens": FOUR_TURNS,
    "the same four turns, a reflection reads the branch's prompt": (*FOUR_TURNS, READS_PROMPT),
    "Sokoban, 12 turns of 64 tokens": ("leafe_sokoban", "leafe.environment.horizon=12"),
}
KINDS = {
    "explore": ["explore"],
    "reflect": ["reflect"],
    "branch": ["branch"],
    "branch and reflect": ["branch", "reflect"],
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    shares = {name: cached(explored(*overrides, *ONE_STEP)) for name, overrides in CONTESTANTS.items()}
    rows = [[name, *(f"{each.get(kind, 0):.1%}" for kind in KINDS)] for name, each in shares.items()]
    print_table(["prompt tokens from vLLM's prefix cache", *KINDS], rows, {"prefix_cache": shares})


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
