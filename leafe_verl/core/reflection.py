"""Reflection: ask which step went wrong and how to fix it, and parse whatever the model answers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from leafe_verl.core.policy import PromptUsage
from leafe_verl.core.text import find_objects, without_surrogates

PROMPT = (
    "Stop here and look back: which turn, from 1 to {num_steps}, was the first to go wrong? Answer in JSON: as "
    '"step" its number, as "experience" what was wrong there and how to do it right, in two sentences at most.'
)
"""It shows no pattern to fill in, since small models return such a pattern unchanged. It is short, since the prefix
cache never covers it."""

EXPERIENCE = "Advice from an earlier try at this very turn, to be followed but not mentioned:\n{experience}"

REPEATED_SHARE = 0.75
"""An experience is refused if more than this share of its pairs of adjacent words is copied from PROMPT."""


class StepFeedback(Protocol):
    """The part of a step that the fallback reads."""

    @property
    def observation(self) -> str: ...
    @property
    def reward(self) -> float: ...
    @property
    def error(self) -> bool: ...


@dataclass(frozen=True)
class Reflection:
    """(tau, e): the step where an attempt went wrong, and a short text that says what was wrong and how to fix it."""

    step: int
    """tau, from 1 to `num_steps`."""
    experience: str
    """e, the text."""
    parsed: bool
    """True if (tau, e) is the model's own answer, False if it is the fallback."""
    text: str = ""
    """The model's answer, verbatim. If there is none, the reason in square brackets."""
    num_tokens: int = 0
    """Number of sampled tokens."""
    num_steps: int = 0
    """Number of steps that were reflected on, counted from the task's start."""
    prompted: PromptUsage | None = field(default=None, compare=False)
    """How the prompt was read. None if the engine does not say; never stored."""


def reflection_prompt(num_steps: int) -> str:
    """Return the question that asks for (tau, e) of the first `num_steps` steps."""
    return PROMPT.format(num_steps=num_steps)


def experience_note(experience: str) -> str:
    """Return the text that puts an experience into a prompt."""
    return EXPERIENCE.format(experience=experience)


def reflection_schema(num_steps: int, max_characters: int) -> dict[str, Any]:
    """Return the JSON schema of a well-formed answer, for engines that decode under a grammar."""
    return {
        "type": "object",
        "properties": {
            "step": {"type": "integer", "minimum": 1, "maximum": num_steps},
            "experience": {"type": "string", "minLength": 1, "maxLength": max_characters},
        },
        "required": ["step", "experience"],
        "additionalProperties": False,
    }


def parse_reflection(text: str, num_steps: int, max_characters: int) -> tuple[int, str] | None:
    """Return (tau, e) from JSON, or else from lines `STEP:` and `EXPERIENCE:`. None if there is no valid answer.

    A step outside 1..num_steps is invalid, since guessing another step would hide how well the model reflects. An
    experience that repeats the question is invalid too.
    """
    step, experience = _from_json(text) or _from_lines(text) or (None, None)
    if isinstance(step, str) and re.fullmatch(r"\s*\d{1,6}\s*", step):
        step = int(step)
    if not isinstance(step, int) or isinstance(step, bool) or not 1 <= step <= num_steps:
        return None
    if not isinstance(experience, str) or not experience.strip() or _repeats_the_question(experience):
        return None
    return step, shorten(without_surrogates(experience).strip(), max_characters)


def fallback_reflection(steps: Sequence[StepFeedback], max_characters: int) -> tuple[int, str]:
    """Return (tau, e) in place of a model that gave no valid answer.

    tau is the last step with a negative reward, else the first step whose feedback reports an error, else the last
    step; e is the feedback to it.
    """
    fell = [t for t, step in enumerate(steps, start=1) if step.reward < 0]
    errors = [t for t, step in enumerate(steps, start=1) if step.error]
    tau = fell[-1] if fell else errors[0] if errors else len(steps)
    return tau, shorten(steps[tau - 1].observation.strip() or "This turn did not help.", max_characters)


def shorten(text: str, max_characters: int) -> str:
    """Shorten to `max_characters`, keeping the beginning and the end, where messages say most."""
    if len(text) <= max_characters:
        return text
    gap = " ... "
    if max_characters <= len(gap) + 2:
        return text[:max_characters]
    head = (max_characters - len(gap) + 1) // 2
    return text[:head] + gap + text[len(text) - (max_characters - len(gap) - head) :]


def _repeats_the_question(experience: str) -> bool:
    pairs = _word_pairs(experience)
    return bool(pairs) and sum(pair in _ASKED for pair in pairs) > REPEATED_SHARE * len(pairs)


def _word_pairs(text: str) -> list[tuple[str, str]]:
    return list(itertools.pairwise(re.findall(r"\w+", text.lower())))


_ASKED = frozenset(_word_pairs(PROMPT))


def _from_json(text: str) -> tuple[Any, Any] | None:
    found = next((each for each in find_objects(text) if "step" in each), None)
    return None if found is None else (found["step"], found.get("experience"))


def _from_lines(text: str) -> tuple[Any, Any] | None:
    # Two searches, each linear: one expression for both takes quadratic time on a text that repeats "STEP: 1".
    step = re.search(r"\bSTEP\s*:\s*(\d{1,6})\b", text, re.IGNORECASE)
    if step is None:
        return None
    experience = re.search(r"\bEXPERIENCE\s*:\s*(.+)", text[step.end() :], re.IGNORECASE | re.DOTALL)
    return (step.group(1), experience.group(1)) if experience else None
