"""What a store was made with (`evaluation.json`), so that only the same is added to it and compared as such."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leafe_verl.core import Task

FILE = "evaluation.json"
SCHEMA = 1
_FREE = {"attempts", "collections", "sources"}
"""Fields that may differ between two calls on one store; the tasks themselves are compared, not where they lie."""
_FORMER_SETTINGS = {
    "leafe.context.line_characters": 160,
    "leafe.context.summary_characters": 3000,
    "leafe.playbook.lesson_characters": 160,
}
"""Former settings, constants today. Manifests of earlier versions may name them; only another value is a difference."""


@dataclass(frozen=True)
class Manifest:
    model: str
    """Hugging Face folder or owner/name."""
    sources: tuple[str, ...]
    """Task files."""
    tasks: str
    """Number of tasks and a hash of them; see `fingerprint`."""
    loop: str
    """`episode`: plain attempts. `explore`: exploration trees."""
    sampling: Mapping[str, Any]
    """Temperature and its like."""
    horizon: int
    """Steps of an attempt."""
    window: int
    """Tokens of prompt and turns together."""
    leafe: Mapping[str, Any]
    """Those of the `leafe` settings that decide what an attempt, or a tree, is."""
    attempts: int
    """Scored attempts asked for of each task; of a tree, its budget."""
    collections: tuple[Mapping[str, Any], ...] = ()
    """Every call that started verl: date, seed of the rollout, versions, machine."""

    @property
    def explores(self) -> bool:
        return self.loop == "explore"

    def differences(self, other: Manifest) -> list[str]:
        """Name each setting in which two manifests differ, with both values, other's last."""
        ours, theirs = _flat(self), _flat(other)
        return [
            f"{name} is {ours.get(name)!r}, not {theirs.get(name)!r}"
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name)
        ]


def fingerprint(tasks: Iterable[Task]) -> str:
    """Return the tasks' number and a hash of all that they hold, in their order."""
    lines = [json.dumps(dataclasses.asdict(task), sort_keys=True) for task in tasks]
    return f"{len(lines)}, sha256 {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:16]}"


def read_manifest(store: Path) -> Manifest | None:
    """Return the store's manifest, None for a folder without one. Raises ValueError for another schema."""
    path = store / FILE
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    if (schema := values.pop("schema", None)) != SCHEMA:
        raise ValueError(f"{path} is of schema {schema!r}; expected {SCHEMA}: read it with the version that wrote it")
    for name in ("sources", "collections"):
        values[name] = tuple(values[name])
    return Manifest(**values)


def write_manifest(store: Path, manifest: Manifest) -> None:
    """Replace the store's manifest in one go: a killed process leaves the old one or the new one."""
    store.mkdir(parents=True, exist_ok=True)
    partial = store / f"{FILE}.{os.getpid()}"
    values = {"schema": SCHEMA, **dataclasses.asdict(manifest)}
    partial.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(store / FILE)


def _flat(manifest: Manifest) -> dict[str, Any]:
    """Compared fields, nested ones as `leafe.generation.max_tokens`; as JSON gives them back."""
    values = json.loads(json.dumps(dataclasses.asdict(manifest)))
    leaves = _leaves({name: value for name, value in values.items() if name not in _FREE})
    return {name: value for name, value in leaves if (name, value) not in _FORMER_SETTINGS.items()}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
