"""Tells a model's answer from the thoughts that it writes before it, as `<think> ... </think>`."""

from __future__ import annotations

import re

TAGS = {"<think>": "</think>", "[THINK]": "[/THINK]", "<seed:think>": "</seed:think>", "◁think▷": "◁/think▷"}
"""How models open and close a thought: Qwen3 and DeepSeek-R1, Magistral, Seed-OSS, Kimi."""


def without_thoughts(text: str, *, opened: bool = False) -> str:
    """Return the answer in a turn's text.

    A thought that was never closed, because the token limit cut it, leaves no answer after it.

    Args:
        opened: Whether the prompt has opened a thought, so that the text begins within one.
    """
    answer = text
    for opens, closes in TAGS.items():
        if opens not in answer and closes not in answer:
            continue
        opened = opened and closes not in answer
        answer = re.sub(f"{re.escape(opens)}.*?{re.escape(closes)}", "", answer, flags=re.DOTALL)
        answer = answer.rpartition(closes)[2]  # a thought that the prompt has opened
        answer = answer.partition(opens)[0]  # one that was cut
    if opened:
        return ""
    return answer if answer == text else answer.lstrip()
