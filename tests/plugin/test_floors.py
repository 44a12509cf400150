"""The floors of the plugin: what each may import, and the one module that spells our keys."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import leafe_verl

PLUGIN = Path(leafe_verl.__file__).parent / "plugin"
KEYS = re.compile(r"leafe_[a-z_]+|trees_unkept|trees_from_store")
NAMES = {"leafe_prefix_tree", "leafe_verl"}
"""Names in registries of transformers and trackers, which are not sent between processes."""
OTHERS = {"wire.py", "resolvers.py"}
"""Files whose names are not searched for: wire.py spells the keys, resolvers.py names OmegaConf's resolvers."""


def imported_names(source: str) -> Iterator[str]:
    """Yield the full name of each module that a source imports, and of each name that it imports from one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_floor(source: str, floor: str) -> bool:
    package = f"leafe_verl.plugin.{floor}"
    return any(name == package or name.startswith(f"{package}.") for name in imported_names(source))


def importers(pattern: str, floor: str) -> list[str]:
    return [path.name for path in PLUGIN.glob(pattern) if imports_floor(path.read_text(), floor)]


@pytest.mark.parametrize(
    "source",
    [
        "import leafe_verl.plugin.training.records",
        "import leafe_verl.plugin.training as t",
        "from leafe_verl.plugin import training",
        "from leafe_verl.plugin.training import records",
        "def f():\n    from leafe_verl.plugin.training.records import read_records",
    ],
)
def test_every_form_of_import_is_seen(source):
    assert imports_floor(source, "training") and not imports_floor(source, "rollout")


def test_no_relative_imports_hide_a_floor():
    nodes = [node for path in PLUGIN.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    assert not [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level]


def test_rollout_does_not_import_training():
    assert importers("rollout/*.py", "training") == []


def test_cpu_imports_neither():
    assert importers("cpu/*.py", "training") == importers("cpu/*.py", "rollout") == []


@pytest.mark.parametrize("module", ["wire.py", "trackers.py"])
def test_what_both_floors_share_imports_no_floor(module):
    assert [floor for floor in ("rollout", "training", "cpu") if importers(module, floor)] == []


def test_the_keys_that_travel_are_spelled_in_wire_alone():
    found = [
        f"{path.name}: {node.value}"
        for path in PLUGIN.rglob("*.py")
        if path.name not in OTHERS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if KEYS.fullmatch(node.value) and node.value not in NAMES
    ]
    assert found == []
