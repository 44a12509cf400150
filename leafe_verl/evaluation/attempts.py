"""The store of an evaluation: one JSON line for each finished exploration tree, plain attempts being trees of one.

A store is a folder with `evaluation.json` (manifest.py) and `attempts-*.jsonl`, one file for each process that wrote.
A line, version 1 (`schema`):

    schema          1
    key             the task's key
    environment     the task's environment
    seed            leafe.seed, which the environment was reset with
    attempts        in breadth-first order, each:
        branch          null for a root, else {parent, step, depth, parsed, experience}; `step` counts from 1
        outcome         core.Outcome's value: success, failure, horizon; unscored: environment_failure, ...
        error           what broke, null for scored attempts
        return          sum of the rewards along the attempt's path, shared steps included
        success         whether the outcome is success
        steps           those the attempt played itself: {action, observation, reward, error, tokens}
        sampled_tokens  of its own steps
    reflections     {attempt, step, experience, parsed, text, tokens}, in the order of their requests
    counts          core.statistics.count of the tree

Unscored attempts are kept: they are neither right nor wrong, and are tried again.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from leafe_verl.core import Attempt, Branch, Example, ExplorationTree, Outcome, Reflection
from leafe_verl.core.statistics import count, total

logger = logging.getLogger(__name__)

SCHEMA = 1
PATTERN = "attempts-*.jsonl"


def record_of(tree: ExplorationTree, examples: Iterable[Example], seed: int) -> dict[str, Any]:
    """Return the tree as one JSON object of the form above."""
    return {
        "schema": SCHEMA,
        "key": tree.task.key,
        "environment": tree.task.environment,
        "seed": seed,
        "attempts": [_attempt(attempt, tree.total_return(index)) for index, attempt in enumerate(tree.attempts)],
        "reflections": [_reflection(index, reflection) for index, reflection in tree.reflections],
        "counts": count(tree, examples),
    }


class AttemptWriter:
    """Appends records to a file of its own, so that processes need no lock; a killed one loses its last line alone."""

    def __init__(self, store: Path) -> None:
        store.mkdir(parents=True, exist_ok=True)
        name = f"attempts-{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}.jsonl"
        self._file = (store / name).open("x", encoding="ascii")

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one whole line and wait until the disk has it."""
        # Plain ASCII: sampled text may hold lone surrogates, which UTF-8 cannot.
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


@dataclass(frozen=True)
class Record:
    """What the figures need of one line."""

    key: str
    outcomes: tuple[Outcome, ...]
    """Of the tree's attempts; one for a plain attempt."""
    counts: Mapping[str, int]

    @property
    def scored(self) -> bool:
        """Whether any attempt says something about the policy."""
        return any(outcome.scored for outcome in self.outcomes)

    @property
    def solved(self) -> bool:
        return Outcome.SUCCESS in self.outcomes


def read_records(store: Path) -> list[Record]:
    """Read every finished tree of a store, in the order of the files' names.

    A last line cut short by a killed process is passed over with a warning. Raises ValueError for any other line that
    is no record, and for another version of the form.
    """
    return [record for path in sorted(store.glob(PATTERN)) for record in _read_file(path)]


def results_of(records: Iterable[Record]) -> dict[str, list[bool]]:
    """Task key -> whether each of its scored trees holds a success."""
    results: dict[str, list[bool]] = {}
    for record in records:
        if record.scored:
            results.setdefault(record.key, []).append(record.solved)
    return results


def missing_attempts(records: Iterable[Record], keys: Iterable[str], attempts: int) -> dict[str, int]:
    """Task key -> scored trees that it lacks of `attempts`, in the order of `keys`; tasks that lack none are absent."""
    present = Counter(record.key for record in records if record.scored)
    return {key: attempts - present[key] for key in keys if present[key] < attempts}


def total_counts(records: Iterable[Record]) -> dict[str, int]:
    """Counts of all trees together, unscored ones included: they were paid for as well."""
    return total(record.counts for record in records)


def _read_file(path: Path) -> list[Record]:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(_record(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) and not line.endswith("\n"):
                logger.warning("%s: the last line was cut short and is passed over", path)
                continue
            raise ValueError(f"{path}, line {number}: no record of schema {SCHEMA} ({error!r})") from None
    return records


def _record(line: Mapping[str, Any]) -> Record:
    if line["schema"] != SCHEMA:
        raise ValueError(f"it is of schema {line['schema']!r}; read it with the version that wrote it")
    outcomes = tuple(Outcome(attempt["outcome"]) for attempt in line["attempts"])
    return Record(line["key"], outcomes, line["counts"])


def _attempt(attempt: Attempt, total_reward: float) -> dict[str, Any]:
    steps = [
        {
            "action": step.action.text,
            "observation": step.observation,
            "reward": step.reward,
            "error": step.error,
            "tokens": len(step.action.token_ids),
        }
        for step in attempt.steps
    ]
    return {
        "branch": _branch(attempt.branch) if attempt.branch else None,
        "outcome": attempt.outcome.value,
        "error": attempt.error,
        "return": total_reward,
        "success": attempt.outcome is Outcome.SUCCESS,
        "steps": steps,
        "sampled_tokens": sum(len(step.action.token_ids) for step in attempt.steps),
    }


def _branch(branch: Branch) -> dict[str, Any]:
    reflection = branch.reflection
    return {
        "parent": branch.parent,
        "step": branch.step,
        "depth": branch.depth,
        "parsed": reflection.parsed,
        "experience": reflection.experience,
    }


def _reflection(attempt: int, reflection: Reflection) -> dict[str, Any]:
    return {
        "attempt": attempt,
        "step": reflection.step,
        "experience": reflection.experience,
        "parsed": reflection.parsed,
        "text": reflection.text,
        "tokens": reflection.num_tokens,
    }
