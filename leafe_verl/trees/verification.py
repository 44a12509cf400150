"""Checks that every record of a store is a tree and agrees with its own summary columns."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from leafe_verl.core import ExplorationTree, StepRecord, build_sequence
from leafe_verl.trees.errors import DamagedFile
from leafe_verl.trees.reader import Folder, TreeKey, arrow_files, read_file, require_files, tree_key
from leafe_verl.trees.rows import Row, from_row, summarize


@dataclass
class VerificationResult:
    """What was found in a store."""

    counts: Counter[str] = field(default_factory=Counter)
    """Numbers of files, trees, duplicates, attempts, branches, reflections, recovery targets and sampled tokens."""
    problems: list[str] = field(default_factory=list)
    """What is wrong, one text for each problem, with its place."""

    def lines(self) -> list[str]:
        counted = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in self.counts.items())
        return [*self.problems, f"{counted}; {len(self.problems)} problems"]


def verify(store: Folder) -> VerificationResult:
    """Read a whole store. Duplicates are counted but are no problem, since `merge` drops them."""
    require_files(store)
    result = VerificationResult(Counter(files=0, trees=0, duplicates=0))
    keys: set[TreeKey] = set()
    for path in arrow_files(store):
        result.counts["files"] += 1
        _verify_file(path, result, keys)
    return result


def _verify_file(path: Path, result: VerificationResult, keys: set[TreeKey]) -> None:
    try:
        for location, row in read_file(path):
            try:
                result.counts.update(check_row(row))
            except ValueError as error:
                result.problems.append(f"{location}: {error}")
                continue
            result.counts["trees"] += 1
            result.counts["duplicates"] += tree_key(row) in keys
            keys.add(tree_key(row))
    except (DamagedFile, ValueError) as error:
        result.problems.append(str(error))


def check_row(row: Row) -> dict[str, int]:
    """Return the row's counts. Raises ValueError if the row is not a tree or contradicts itself.

    Training relies on every history continuing the previous one token for token. A branch must be one level deeper than
    its parent, and the computed columns must agree with the tree.
    """
    tree = from_row(row)
    _check_tree(tree)
    computed = summarize(tree)
    if row["has_tokens"] is False:
        computed["sampled_tokens"] = _count_tokens(row)
    if differing := [name for name, value in computed.items() if row[name] not in (None, value)]:
        raise ValueError(f"task {tree.task.key!r}: the tree contradicts its columns {', '.join(differing)}")
    return {
        "attempts": len(tree.attempts),
        "branches": len(tree.branches()),
        "reflections": len(tree.reflections),
        "recovery_targets": len(tree.recovery_targets or ()),
        "sampled_tokens": computed["sampled_tokens"],
    }


def _check_tree(tree: ExplorationTree) -> None:
    for index, branch in tree.branches():
        if branch.depth != tree.attempts[branch.parent].depth + 1:
            raise ValueError(f"task {tree.task.key!r}: attempt {index} is of depth {branch.depth}, unlike its parent")
    for index, attempt in enumerate(tree.attempts):
        if attempt.steps:
            try:
                for piece in _pieces(tree.path(index)):
                    build_sequence(piece)
            except ValueError as error:
                raise ValueError(f"task {tree.task.key!r}, attempt {index}: {error}") from error


def _pieces(path: Sequence[StepRecord]) -> Iterator[Sequence[StepRecord]]:
    """Yield a path in pieces, each in prompts that continue one another: a new one begins where a window moved, so that
    the messages did not grow, and behind thoughts, which the next prompt may leave out."""
    begins = [
        place
        for place, (before, step) in enumerate(itertools.pairwise(path), start=1)
        if before.action.num_thoughts or len(step.history.messages) <= len(before.history.messages)
    ]
    return (path[begin:end] for begin, end in itertools.pairwise([0, *begins, len(path)]))


def _count_tokens(row: Row) -> int:
    """Return the number of sampled tokens of a tree that is stored without tokens."""
    actions = [step["action"] for attempt in row["attempts"] for step in attempt["steps"]]
    return sum(each["num_tokens"] for each in [*actions, *row["reflections"]])
