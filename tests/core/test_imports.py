"""The core stands alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pydantic

import leafe_verl
from leafe_verl import core

HEAVY = {"torch", "ray", "verl", "vllm", "transformers", "numpy"}
PYDANTIC = {"pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}


def test_the_core_loads_the_standard_library_and_pydantic_alone():
    # -S and a path of its own: the .pth files that some packages install cannot preload anything.
    folders = [Path(leafe_verl.__file__).parents[1], Path(pydantic.__file__).parents[1]]
    modules = [f"leafe_verl.core.{file.stem}" for file in Path(core.__file__).parent.glob("[!_]*.py")]
    code = (
        f"import sys; sys.path[:0] = {[str(folder) for folder in folders]!r}\n"
        f"import leafe_verl.core, {', '.join(modules)}\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded = {name for name in done.stdout.split() if not name.startswith("_sysconfigdata")}  # of the platform
    assert "leafe_verl" in loaded and len(modules) >= 8
    assert loaded & HEAVY == set()
    assert loaded - {"leafe_verl", "__main__"} <= {*sys.stdlib_module_names, "__mp_main__", *PYDANTIC}


def test_the_public_names_are_there():
    assert core.__all__ == sorted(core.__all__)
    assert all(hasattr(core, name) for name in core.__all__)
