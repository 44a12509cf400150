"""Text that tokenizers, files and UTF-8 can hold, and numbers with their nouns."""

from __future__ import annotations

import itertools
import json
import random
import re
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any


def without_surrogates(text: str) -> str:
    """Return a text with `?` for each lone surrogate, half of a character that a tokenizer cut or that JSON spells.

    No tokenizer takes one, and neither does UTF-8.
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def read_json(text: str) -> Any:
    """Return what JSON says, with `?` for each lone surrogate, which JSON may spell as an escape.

    Raises ValueError for what is no JSON, and for brackets or numbers beyond Python's limits.
    """
    try:
        return json.loads(without_surrogates(json.dumps(json.loads(text), ensure_ascii=False)))
    except RecursionError:
        raise ValueError("too many brackets within one another") from None


def find_objects(text: str, most: int = 64) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in a text, as models write them: among other words, with raw line breaks in strings.

    At most `most` openings are tried: hostile text would block the event loop.
    """
    decoder = json.JSONDecoder(strict=False)
    for match in itertools.islice(re.finditer(r'\{\s*["}]', text), most):
        with suppress(ValueError, RecursionError):  # ValueError: malformed, or a number of thousands of digits
            value, _ = decoder.raw_decode(text, match.start())
            yield value


def describe_error(error: Exception) -> str:
    """Return what code that is not ours raised, and where: its message alone may say nothing."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    return f"{what}, in {Path(place.filename).name}, line {place.lineno}"


def seeded_random(text: str) -> random.Random:
    """Return a generator of random numbers that a text seeds, also one with a lone surrogate."""
    return random.Random(text.encode("utf-8", "surrogatepass"))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, as in `1 task` and `2 tasks`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
