"""Records the settings of an evaluation (`evaluation.json`), so that only attempts made with the same join it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leafe_verl.core import Task
from leafe_verl.files import replace_text

FILE = "evaluation.json"
SCHEMA = 1
_FREE = {"attempts", "collections", "sources"}
"""Fields that may differ between two calls on one folder. The tasks are compared by their content, not their path."""
_FREE_LEAVES = {"given.from"}
"""The same for fields within fields. The histories are compared by their content, too."""


@dataclass(frozen=True)
class Manifest:
    """The settings of an evaluation."""

    model: str
    """Hugging Face folder, or owner/name on the hub."""
    sources: tuple[str, ...]
    """Paths of the task files."""
    tasks: str
    """Number of tasks and a hash of their content; see `fingerprint`."""
    loop: str
    """`episode` plays plain attempts, `explore` grows exploration trees."""
    sampling: Mapping[str, Any]
    """Sampling parameters, such as temperature."""
    horizon: int
    """Maximum number of steps of an attempt."""
    window: int
    """Maximum number of tokens of prompt and turns together."""
    leafe: Mapping[str, Any]
    """The `leafe` settings that decide how an attempt, or a tree, is played."""
    attempts: int
    """Number of scored attempts wanted for each task, or for each given history; for trees, the budget of a tree in
    attempts."""
    collections: tuple[Mapping[str, Any], ...] = ()
    """One entry for each call that started verl: date, seed of the rollout, versions, machine."""
    dtype: str | None = None
    """Precision that was computed in, such as `float32`; None for evaluations of earlier versions."""
    weights: str | None = None
    """Hash of the model's weights, since another training may have written others to the same path; None for a model of
    the hub and for evaluations of earlier versions."""
    template: Mapping[str, Any] | None = None
    """verl's settings that render prompts otherwise than the model's own files say: options of the chat template,
    another tokenizer, and a hash of another template. None for no such setting."""
    given: Mapping[str, Any] | None = None
    """The failed histories that all attempts go on from (histories.py): `from`, the folder that they were drawn from;
    `turn`, the failed turn that they end with; `per_task` and `max_tasks`, at most how many; `seed` of the draw;
    `fingerprint` of what was drawn. None: the attempts begin at the task's start."""

    @property
    def explores(self) -> bool:
        """Whether exploration trees are grown rather than plain attempts played."""
        return self.loop == "explore"

    @property
    def kind(self) -> str:
        """What is measured: plain `attempts`, `trees`, or recovery from `given` histories. They are never compared."""
        return "given" if self.given else "trees" if self.explores else "attempts"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Manifest:
        """Return the manifest of plain values, as JSON has them. Raises TypeError for fields of another version."""
        return cls(**{**values, **{name: tuple(values[name]) for name in ("sources", "collections")}})

    def differences(self, other: Manifest) -> list[str]:
        """Describe each setting in which two manifests differ, with this one's value first."""
        ours, theirs = _flat(self), _flat(other)
        for name in ("dtype", "weights"):
            if None in (ours[name], theirs[name]):  # an earlier version did not write it down
                del ours[name], theirs[name]
        return [
            f"{name} is {ours.get(name)!r}, not {theirs.get(name)!r}"
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name)
        ]


def describe_differences(name: str, ours: Manifest, base: str, theirs: Manifest) -> Iterator[str]:
    """Yield how an evaluation was played otherwise than another one. Models and playbooks are what is compared."""
    found = [each for each in ours.differences(theirs) if not each.startswith(("model ", "weights ", "leafe.playbook"))]
    if found:
        yield f"{name} was evaluated differently from {base}: {'; '.join(found)}"


def refuse_mixed_precision(manifests: Mapping[str, Manifest]) -> None:
    """Raise ValueError if two of the named evaluations have different precisions. Unknown ones are accepted."""
    known = {name: manifest.dtype for name, manifest in manifests.items() if manifest.dtype}
    if len({*known.values()}) > 1:
        told = ", ".join(f"{name} in {dtype}" for name, dtype in known.items())
        raise ValueError(
            f"the evaluations were computed in different precisions: {told}. Expected one for all: evaluate again, "
            "without a GPU with LEAFE_CPU_DTYPE=float32 or bfloat16 for all of them"
        )


def fingerprint(tasks: Iterable[Task]) -> str:
    """Return the number of tasks and a hash of their content and order."""
    return hash_lines([json.dumps(dataclasses.asdict(task), sort_keys=True) for task in tasks])


def hash_lines(lines: Sequence[str]) -> str:
    """Return the number of lines and a hash of them."""
    return f"{len(lines)}, sha256 {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:16]}"


def read_manifest(store: Path) -> Manifest | None:
    """Return the manifest in a folder, None if there is none. Raises ValueError for another schema, and for no JSON."""
    path = store / FILE
    if not path.is_file():
        return None
    try:
        values = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no manifest of an evaluation ({error}); expected an object of JSON") from None
    if (schema := values.pop("schema", None)) != SCHEMA:
        raise ValueError(f"{path} is of schema {schema!r}; expected {SCHEMA}: read it with the version that wrote it")
    try:
        return Manifest.from_mapping(values)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} has other fields ({error}); read it with the version that wrote it") from None


def write_manifest(store: Path, manifest: Manifest) -> None:
    """Replace the folder's manifest atomically: a killed process leaves the old one or the new one."""
    store.mkdir(parents=True, exist_ok=True)
    values = {"schema": SCHEMA, **dataclasses.asdict(manifest)}
    if manifest.given is None:  # so that earlier versions, which do not know the field, read it as well
        del values["given"]
    replace_text(store / FILE, json.dumps(values, indent=2, sort_keys=True) + "\n")


def _flat(manifest: Manifest) -> dict[str, Any]:
    """Return the compared fields as JSON would give them back, nested ones by names like `leafe.seed`."""
    values = json.loads(json.dumps(dataclasses.asdict(manifest)))
    leaves = _leaves({name: value for name, value in values.items() if name not in _FREE})
    return {name: value for name, value in leaves if name not in _FREE_LEAVES}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
