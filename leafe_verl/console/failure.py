"""Finds the cause of a failed run in the errors that Ray wraps around it."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from pathlib import Path

from leafe_verl.trees.text import visible

LINES, LINE_CHARACTERS = 12, 400
"""How much of a cause's message is shown. The log has it all."""
MEMORY_HINT = (
    "A process was killed, most often for want of memory. Give the run more, or make it smaller: MODEL, "
    "actor_rollout_ref.rollout.max_num_seqs, actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu."
)
GPU_FULL = "CUDA out of memory"
GPU_HINT = (
    "A GPU is full. Lower actor_rollout_ref.actor.ppo_max_token_len_per_gpu or "
    "actor_rollout_ref.rollout.gpu_memory_utilization."
)
RAYS_OWN = "/ray/_private/"
_KILLED = re.compile(r"OutOfMemory|\bOOM\b|out of memory|SIGKILL", re.IGNORECASE)
_ENGINE = re.compile(r"ERROR [\d: -]+\[\S+\] ((?:\w+\.)*\w*(?:Error|Exception): .*)")
"""A line of vLLM's log that names an exception."""
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')
_RAISED = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)\b.*", re.MULTILINE)
"""The line of a traceback that names the exception."""


def describe_failure(error: BaseException) -> Iterator[str]:
    """Yield the lines that say what went wrong, where it was raised, and what helps if that is known."""
    chain = find_chain(error)
    message = _message(chain[-1])
    yield from _shortened(message)
    if place := _find_place(chain):
        yield f"  raised in {place}"
    if GPU_FULL in message:
        yield f"  {GPU_HINT}"
    elif _KILLED.search(message):
        yield f"  {MEMORY_HINT}"


def engine_cause(error: BaseException, log: Path, offset: int) -> Iterator[str]:
    """Yield the error of vLLM's engine, where the cause of a run's failure says no more than that it is above.

    The engine is a process of its own with GPUs, whose error is in the log alone.

    Args:
        log: The log of the run, which this launcher's output begins in at `offset` bytes.
    """
    if "See root cause above" not in str(find_chain(error)[-1]) or not log.is_file():
        return
    with log.open("rb") as file:
        file.seek(offset)
        said = (_ENGINE.search(line.decode("utf-8", "replace")) for line in file)
        found = next((match for match in said if match), None)
    yield f"  the engine said: {visible(found[1])[:LINE_CHARACTERS]}" if found else "  search the log for: EngineCore"


def find_chain(error: BaseException) -> list[BaseException]:
    """Return the error and what caused it, the root last. Ray's errors keep it in `cause`, others in `__cause__`."""
    chain = [error]
    while True:
        inner = getattr(chain[-1], "cause", None) or chain[-1].__cause__
        if not isinstance(inner, BaseException) or any(inner is each for each in chain):
            return chain
        chain.append(inner)


def _message(cause: BaseException) -> str:
    """Return type and message. Where Ray kept a cause as the text of a traceback, they are at the end of it."""
    text = str(cause)
    raised = [found.start() for found in _RAISED.finditer(text)] if _FRAME.search(text) else []
    return text[raised[-1] :] if raised else f"{type(cause).__name__}: {text}"


def _shortened(text: str) -> list[str]:
    lines = visible(text[: 10 * LINES * LINE_CHARACTERS]).rstrip().split("\n")
    shown = [line if len(line) <= LINE_CHARACTERS else f"{line[:LINE_CHARACTERS]} ..." for line in lines[:LINES]]
    return shown if len(lines) <= LINES else [*shown, "..."]


def _find_place(chain: list[BaseException]) -> str | None:
    """Return file, line and function that raised the root, as Ray tells it if another process did.

    None for an error of Ray's own, which says that a process is gone, and not why.
    """
    told = [found for each in chain for found in _FRAME.finditer(str(each))]
    if told:
        return f"{told[-1]['file']}, line {told[-1]['line']}, in {told[-1]['function']}"
    frames = traceback.extract_tb(chain[-1].__traceback__)
    if not frames or RAYS_OWN in frames[-1].filename:
        return None
    return f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}"
