"""ACE, a baseline without training: advice drawn from attempts, kept in every prompt (arXiv 2510.04618).

After an attempt the policy looks back and names the advice that helped or harmed, and what it would add (reflector
and curator in one answer); the answers are merged by rules alone, which keeps advice from collapsing into a summary.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from leafe_verl.core.policy import Policy, PolicyFailure
from leafe_verl.core.reflection import shorten
from leafe_verl.core.settings import PlaybookSettings
from leafe_verl.core.tree import ExplorationTree

HEADING = "Advice from earlier tasks of this kind:"
PROMPT = (
    "This was your last turn; do not continue the task. Look back at your turns and the feedback to each. Answer with "
    'JSON only: {{"helpful": the keys of the advice above that helped, "harmful": the keys of that which misled you, '
    '"lessons": up to {lessons} short pieces of new advice for other tasks of this kind}}.'
)
REQUEST = "attempt 0"
"""Name under which the answer is sampled, that of the attempt which it looks back at; see `Policy`."""
LESSON_CHARACTERS = 160
"""Maximum length of one piece of advice."""
SAME = 0.9
"""Texts at least this similar (difflib's ratio) are one piece of advice."""


@dataclass(frozen=True)
class Advice:
    key: str
    text: str
    helpful: int = 1
    """How often an attempt said that it helped; the one that brought it counts."""
    harmful: int = 0

    @property
    def score(self) -> int:
        return self.helpful - self.harmful


@dataclass(frozen=True)
class Delta:
    """What one look back changes."""

    helpful: tuple[str, ...] = ()
    harmful: tuple[str, ...] = ()
    lessons: tuple[str, ...] = ()
    num_tokens: int = 0
    """Tokens sampled for it."""
    parsed: bool = True


@dataclass(frozen=True)
class Playbook:
    """Advice, oldest first."""

    advice: tuple[Advice, ...] = ()
    made: int = 0
    """Pieces of advice ever made, which keys are counted from."""

    def render(self) -> str:
        """Return what stands in the prompt; nothing when there is no advice."""
        return "\n".join([HEADING, *(f"[{each.key}] {each.text}" for each in self.advice)]) if self.advice else ""

    def merged(self, deltas: Iterable[Delta], max_characters: int) -> Playbook:
        """Count what helped and harmed, add what is new, then drop the lowest scores until the rendering fits.

        What harmed more often than it helped goes in any case.
        """
        known, made = {each.key: each for each in self.advice}, self.made
        for delta in deltas:
            for field in ("helpful", "harmful"):
                for key in set(getattr(delta, field)) & known.keys():
                    known[key] = dataclasses.replace(known[key], **{field: getattr(known[key], field) + 1})
            for text in delta.lessons:
                key = next((key for key, each in known.items() if _alike(text, each.text)), None)
                if key is None:
                    made += 1
                    known[f"a{made}"] = Advice(f"a{made}", text)
                else:
                    known[key] = dataclasses.replace(known[key], helpful=known[key].helpful + 1)
        return _fitting([each for each in known.values() if each.score >= 0], made, max_characters)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Playbook:
        """Raises ValueError when the text is none."""
        try:
            content = json.loads(text)
            return cls(tuple(Advice(**each) for each in content["advice"]), content["made"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"no playbook ({type(error).__name__}: {error})") from None


def _alike(one: str, other: str) -> bool:
    one, other = " ".join(one.casefold().split()), " ".join(other.casefold().split())
    return one == other or difflib.SequenceMatcher(None, one, other).ratio() >= SAME


def _fitting(advice: list[Advice], made: int, max_characters: int) -> Playbook:
    while len(Playbook(tuple(advice), made).render()) > max_characters:
        advice.remove(min(advice, key=lambda each: each.score))  # the oldest of the lowest
    return Playbook(tuple(advice), made)


async def look_back(policy: Policy, tree: ExplorationTree, playbook: Playbook, settings: PlaybookSettings) -> Delta:
    """Ask the policy what the tree's first attempt teaches. An answer of no use is a Delta that changes nothing."""
    last = tree.path(0)[-1]
    note = f"{last.observation}\n\n{PROMPT.format(lessons=settings.lessons)}"
    try:
        history = await policy.extend(last.history, last.action, note)
        turn = await policy.reflect(history, delta_schema(playbook, settings), REQUEST)
    except PolicyFailure:
        return Delta(parsed=False)
    return parse_delta(turn.text, settings, len(turn.token_ids))


def delta_schema(playbook: Playbook, settings: PlaybookSettings) -> dict[str, Any]:
    """JSON schema of a well-formed answer, for engines that decode under a grammar."""
    keys: dict[str, Any] = {"type": "array", "maxItems": 0}
    if playbook.advice:
        keys = {"type": "array", "items": {"enum": [each.key for each in playbook.advice]}, "maxItems": 3}
    lesson = {"type": "string", "minLength": 1, "maxLength": LESSON_CHARACTERS}
    properties = {
        "helpful": keys,
        "harmful": keys,
        "lessons": {"type": "array", "items": lesson, "maxItems": settings.lessons},
    }
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def parse_delta(text: str, settings: PlaybookSettings, num_tokens: int) -> Delta:
    """Return what the JSON object in `text` says; keys that are missing or of another type say nothing."""
    content = _json_object(text)
    if content is None:
        return Delta(num_tokens=num_tokens, parsed=False)
    lessons = [shorten(" ".join(each.split()), LESSON_CHARACTERS) for each in _texts(content, "lessons")]
    return Delta(
        _texts(content, "helpful"),
        _texts(content, "harmful"),
        tuple(filter(None, lessons))[: settings.lessons],
        num_tokens,
    )


def _json_object(text: str) -> Mapping[str, Any] | None:
    try:
        content, _ = json.JSONDecoder(strict=False).raw_decode(text, max(text.find("{"), 0))
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _texts(content: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = content.get(key)
    texts = [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
    # A lone surrogate, which JSON can spell, would make the tokenizer raise.
    return tuple(each.encode("utf-8", "replace").decode("utf-8") for each in texts)
