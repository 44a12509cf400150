"""The floors of the plugin: what each may import, and that our keys are spelled in one place."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import leafe_verl

PLUGIN = Path(leafe_verl.__file__).parent / "plugin"
KEYS = re.compile(r"leafe_[a-z_]+|trees_unkept")
NAMES = {"leafe_prefix_tree", "leafe_cpu_dtype", "leafe_verl"}
"""Names in registries of transformers, OmegaConf and trackers, which travel nowhere."""


def imported_modules(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def importers(folder: str, of: str) -> list[str]:
    files = (PLUGIN / folder).glob("*.py")
    return [path.name for path in files if any(m.startswith(f"leafe_verl.plugin.{of}") for m in imported_modules(path))]


def test_rollout_does_not_import_training():
    assert importers("rollout", "training") == []


def test_cpu_imports_neither():
    assert importers("cpu", "training") == importers("cpu", "rollout") == []


def test_the_keys_that_travel_are_spelled_in_wire_alone():
    found = [
        f"{path.name}: {node.value}"
        for path in PLUGIN.rglob("*.py")
        if path.name != "wire.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if KEYS.fullmatch(node.value) and node.value not in NAMES
    ]
    assert found == []
