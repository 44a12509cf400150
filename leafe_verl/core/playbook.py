"""ACE, a baseline without training: advice from earlier attempts is part of every prompt (arXiv 2510.04618).

After an attempt, the policy names the advice that helped or harmed, and the advice that it would add (reflector and
curator in one answer). The answers are merged by rules alone, so that the advice cannot collapse into a summary.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from leafe_verl.core.policy import Policy, PolicyFailure
from leafe_verl.core.reflection import shorten
from leafe_verl.core.settings import PlaybookSettings
from leafe_verl.core.text import find_objects, without_surrogates
from leafe_verl.core.tree import ExplorationTree

HEADING = "Advice from earlier tasks of this kind:"
PROMPT = (
    "This was your last turn; do not continue the task. Look back at your turns and the feedback to each. Answer with "
    'JSON only: {{"helpful": the keys of the advice above that helped, "harmful": the keys of that which misled you, '
    '"lessons": up to {lessons} short pieces of new advice for other tasks of this kind}}.'
)
REQUEST = "attempt 0"
"""Name under which the answer is sampled: that of the attempt it is about. See `Policy`."""
KEYS = frozenset({"helpful", "harmful", "lessons"})
LESSON_CHARACTERS = 160
"""Maximum length of one piece of advice."""
SAME = 0.9
"""Two texts with at least this similarity (difflib's ratio) are the same piece of advice."""


@dataclass(frozen=True)
class Advice:
    """One piece of advice, and how often attempts said that it helped or harmed."""

    key: str
    """Name that the model refers to it by, such as "a3"."""
    text: str
    helpful: int = 1
    """Number of attempts that it helped, including the one that it comes from."""
    harmful: int = 0
    """Number of attempts that it misled."""

    @property
    def score(self) -> int:
        return self.helpful - self.harmful


@dataclass(frozen=True)
class Delta:
    """The changes to the playbook that one attempt suggests."""

    helpful: tuple[str, ...] = ()
    """Keys of the advice that helped."""
    harmful: tuple[str, ...] = ()
    """Keys of the advice that misled."""
    lessons: tuple[str, ...] = ()
    """Texts of new advice."""
    num_tokens: int = 0
    """Number of tokens sampled for it."""
    parsed: bool = True
    """Whether the model's answer was valid JSON."""


@dataclass(frozen=True)
class Playbook:
    """The advice for all tasks."""

    advice: tuple[Advice, ...] = ()
    """Pieces of advice, oldest first."""
    made: int = 0
    """Number of pieces of advice ever made. The next key is counted from it."""

    def render(self) -> str:
        """Return the text for the system prompt; empty if there is no advice."""
        return "\n".join([HEADING, *(f"[{each.key}] {each.text}" for each in self.advice)]) if self.advice else ""

    def merged(self, deltas: Iterable[Delta], max_characters: int) -> Playbook:
        """Return the playbook with the changes applied: votes counted, new advice added.

        Advice that harmed more often than it helped is dropped, and then the advice with the lowest scores until the
        rendering fits into `max_characters`.
        """
        known, made = {each.key: each for each in self.advice}, self.made
        for delta in deltas:
            for field in ("helpful", "harmful"):
                for key in set(getattr(delta, field)) & known.keys():
                    known[key] = dataclasses.replace(known[key], **{field: getattr(known[key], field) + 1})
            for text in delta.lessons:
                key = next((key for key, each in known.items() if _is_same_advice(text, each.text)), None)
                if key is None:
                    made += 1
                    known[f"a{made}"] = Advice(f"a{made}", text)
                else:
                    known[key] = dataclasses.replace(known[key], helpful=known[key].helpful + 1)
        return _drop_until_it_fits([each for each in known.values() if each.score >= 0], made, max_characters)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Playbook:
        """Read what `to_json` wrote. Raises ValueError for anything else."""
        try:
            found = TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) or "the file"
            raise ValueError(f"not a playbook ({where}: {error.errors()[0]['msg']})") from None
        keys = [each.key for each in found.advice]
        if len({*keys}) < len(keys):
            raise ValueError(f"not a playbook (a key stands twice: {', '.join(sorted(keys))})")
        # One that was written by hand may count less than its keys say, and new advice must not replace the old.
        made = [int(key[1:]) for key in keys if key[:1] == "a" and key[1:].isdecimal()]
        return dataclasses.replace(found, made=max([found.made, *made]))


def _is_same_advice(one: str, other: str) -> bool:
    one, other = " ".join(one.casefold().split()), " ".join(other.casefold().split())
    return one == other or difflib.SequenceMatcher(None, one, other).ratio() >= SAME


def _drop_until_it_fits(advice: list[Advice], made: int, max_characters: int) -> Playbook:
    while len(Playbook(tuple(advice), made).render()) > max_characters:
        advice.remove(min(advice, key=lambda each: each.score))  # the oldest one with the lowest score
    return Playbook(tuple(advice), made)


async def look_back(policy: Policy, tree: ExplorationTree, playbook: Playbook, settings: PlaybookSettings) -> Delta:
    """Ask the policy what the tree's first attempt teaches. An invalid answer gives a Delta without changes."""
    last = tree.path(0)[-1]
    note = f"{last.observation}\n\n{PROMPT.format(lessons=settings.lessons)}"
    try:
        history = await policy.extend(last.history, last.action, note)
        turn = await policy.reflect(history, delta_schema(playbook, settings), REQUEST)
    except PolicyFailure:
        return Delta(parsed=False)
    return parse_delta(turn.text, settings, len(turn.token_ids))


def delta_schema(playbook: Playbook, settings: PlaybookSettings) -> dict[str, Any]:
    """Return the JSON schema of a well-formed answer, for engines that decode under a grammar."""
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
    """Read the first JSON object in `text` with one of KEYS. A key that is missing, or whose value has another type,
    counts as empty."""
    content = next((each for each in find_objects(text) if KEYS & each.keys()), None)
    if content is None:
        return Delta(num_tokens=num_tokens, parsed=False)
    lessons = [shorten(" ".join(each.split()), LESSON_CHARACTERS) for each in _texts(content, "lessons")]
    return Delta(
        _texts(content, "helpful"),
        _texts(content, "harmful"),
        tuple(filter(None, lessons))[: settings.lessons],
        num_tokens,
    )


def _texts(content: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = content.get(key)
    texts = [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
    return tuple(map(without_surrogates, texts))
