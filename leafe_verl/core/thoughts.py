"""Tells a model's answer from the thoughts that it writes before it, as `<think> ... </think>`."""

from __future__ import annotations

TAGS = {
    "<think>": "</think>",
    "[THINK]": "[/THINK]",
    "<seed:think>": "</seed:think>",
    "<mm:think>": "</mm:think>",
    "<|channel>": "<channel|>",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "◁think▷": "◁/think▷",
}
"""How models open and close a thought: Qwen3, DeepSeek and most others, Magistral, Seed-OSS, MiniMax-M3, Gemma 4 (whose
thoughts begin with the word `thought`), Command A Reasoning, Kimi-VL."""
UNSUPPORTED = {
    "<|channel|>": "gpt-oss (harmony), whose turn is several messages in channels, each with an end of its own",
    "<|open|>": "Kimi K3, whose tags are made of several tokens that close the answer and the turn as well",
    "Here are my reasoning steps:": "Apriel, whose thoughts and answers are told apart by sentences",
    "Here is my thought process:": "Granite 3.2, whose thoughts and answers are told apart by sentences",
}
"""A text that a chat template writes around two turns -> the format of thoughts by which it does so, which is not read
here. Their thoughts would be taken for actions."""


def end_of_thoughts(text: str, *, opened: bool = False) -> int | None:
    """Return after how many characters a turn's last thought closes: 0 without a thought, None if it goes on.

    Args:
        opened: Whether the prompt has opened a thought, so that the text begins within one.
    """
    begin, end = (max(text.rfind(tag) for tag in tags) for tags in (TAGS, TAGS.values()))
    if begin > end or (opened and end < 0):
        return None
    return max(end, 0)


def split_thoughts(text: str, *, opened: bool = False) -> tuple[str, str]:
    """Return what a turn's text holds up to its answer, and the answer.

    The answer begins behind the last thought that closes and the blanks after it, as chat templates read it
    (`content.split('</think>')[-1]` in Qwen3's), and ends where another thought opens. A thought that was never closed,
    because the token limit cut it, leaves no answer after it.

    Args:
        opened: Whether the prompt has opened a thought, so that the text begins within one.
    """
    begin = max((text.rfind(tag) + len(tag) for tag in TAGS.values() if tag in text), default=0)
    if opened and not begin:
        return text, ""
    answer = text[begin:]
    for tag in TAGS:
        answer = answer.partition(tag)[0]
    if not answer.strip() and len(answer) < len(text) - begin:  # nothing but a thought that was cut
        return text, ""
    kept = answer.lstrip() if begin else answer
    return text[: begin + len(answer) - len(kept)], kept


def without_thoughts(text: str, *, opened: bool = False) -> str:
    """Return the answer in a turn's text; see `split_thoughts`."""
    return split_thoughts(text, opened=opened)[1]
