"""Recognises problems with several right answers, which a comparison with one expected output judges wrongly.

The statement says so in the words of contests, or two tests have the same input and different outputs. What neither
tells is not recognised.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from leafe_verl.sandbox import OutputComparison, ProgramTest

_NO_MATTER = re.compile(
    r"\bin any (?:letter |character )?(?:case|register)\b|"
    r"\b(?:given|follow|listed|described|written|appear\w*|numbered)(?: \w+){0,3} in (?:any|arbitrary|some) order\b",
    re.IGNORECASE,
)
"""What is said of letters' case, which the comparison ignores, and of the input."""
_PRINT = r"(?:print|output|return|write|display|report)"
_FIND = r"(?:print|output|return|write|display|report|find|construct)"
_ANSWER = (
    r"(?:answer|solution|output|option|way|sequence|string|array|permutation|arrangement|one|pair|number|path|set)s?"
)
_ANY = r"(?:any|arbitrary|either)"
_SAYS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b{_FIND} (?:out )?{_ANY}(?: one)?(?: of| such| valid| possible| correct| suitable| {_ANSWER}|[.,;)]|$)",
        rf"\b{_PRINT}\b[^.]*\b{_ANY} (?:one )?of (?:them|these|those|the (?:\w+ ){{0,2}}{_ANSWER})\b",
        rf"\b(?:multiple|several|many|more than one|different|various) (?:\w+ ){{0,3}}{_ANSWER}\b[^.]*\b{_ANY}\b",
        rf"\byou (?:may|can|are allowed to) {_PRINT}\b[^.]*\b{_ANY}\b",
        rf"\bany (?:\w+ )?{_ANSWER} (?:is|are|will be|would be) (?:accepted|allowed|considered)\b",
        rf"\b{_PRINT}\b[^.]*\bin (?:any|arbitrary) order\b",
    )
]


def find_several_answers(statement: str, tests: Iterable[ProgramTest]) -> str | None:
    """Return how one sees that a problem has several right answers, as a phrase; None if nothing tells so."""
    words = _NO_MATTER.sub("", " ".join(statement.split()))
    said = next((found for pattern in _SAYS if (found := pattern.search(words))), None)
    if said:
        return f"its statement says {said[0][:60]!r}"
    return "two of its tests have one input and different outputs" if _contradict(tests) else None


def _contradict(tests: Iterable[ProgramTest]) -> bool:
    """Return whether two tests have the same input, and outputs that differ as judged."""
    comparison, outputs = OutputComparison(), dict[str, str]()
    for test in tests:
        first = outputs.setdefault(test.stdin.strip(), test.expected)
        if first != test.expected and not comparison.matches(test.expected, first):
            return True
    return False
