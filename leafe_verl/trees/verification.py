"""Whether a store holds what it should: every tree parses, and says of itself what is so."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from leafe_verl.core import build_sequence
from leafe_verl.trees.listing import require_files
from leafe_verl.trees.reader import DamagedFile, TreeKey, files, key_of, records, row_in
from leafe_verl.trees.rows import Row, drawn_from, tree_of


@dataclass
class Verdict:
    """What verifying found."""

    counts: Counter[str] = field(default_factory=Counter)
    """Of files, trees, duplicates, attempts, branches, reflections, sampled_tokens."""
    problems: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        counted = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in self.counts.items())
        return [*self.problems, f"{counted}; {len(self.problems)} problems"]


def verify(store: Path) -> Verdict:
    """Read a whole store. Duplicates are counted and are no problem: `merge` drops them."""
    require_files(store)
    verdict = Verdict(Counter(files=0, trees=0, duplicates=0))
    keys: set[TreeKey] = set()
    for path in files(store):
        verdict.counts["files"] += 1
        _verify_file(path, verdict, keys)
    return verdict


def _verify_file(path: Path, verdict: Verdict, keys: set[TreeKey]) -> None:
    try:
        for location, record in records(path):
            try:
                row = row_in(record)
                verdict.counts.update(check_row(row))
            except ValueError as error:
                verdict.problems.append(f"{location}: {error}")
                continue
            verdict.counts["trees"] += 1
            verdict.counts["duplicates"] += key_of(row) in keys
            keys.add(key_of(row))
    except (DamagedFile, ValueError) as error:
        verdict.problems.append(str(error))


def check_row(row: Row) -> dict[str, int]:
    """Return the row's counts. Raises ValueError for what is no tree or contradicts itself.

    Beside the form, these hold: every history continues the one before it token for token, which training relies on;
    a branch is one deeper than its parent; the drawn columns are what the tree says.
    """
    tree = tree_of(row)
    for index, branch in tree.branches():
        if branch.depth != tree.attempts[branch.parent].depth + 1:
            raise ValueError(f"task {tree.task.key!r}: attempt {index} is of depth {branch.depth}, unlike its parent")
    for index, attempt in enumerate(tree.attempts):
        if attempt.steps:
            try:
                build_sequence(tree.path(index))
            except ValueError as error:
                raise ValueError(f"task {tree.task.key!r}, attempt {index}: {error}") from error
    drawn = drawn_from(tree)
    if differing := [name for name, value in drawn.items() if row[name] not in (None, value)]:
        raise ValueError(f"task {tree.task.key!r}: the tree contradicts its columns {', '.join(differing)}")
    return {
        "attempts": len(tree.attempts),
        "branches": len(tree.branches()),
        "reflections": len(tree.reflections),
        "sampled_tokens": drawn["sampled_tokens"],
    }
