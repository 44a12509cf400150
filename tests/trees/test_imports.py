"""A store is read, copied and exported without the training stack."""

import subprocess
import sys
from pathlib import Path

from leafe_verl import trees


def test_the_store_loads_neither_verl_nor_torch():
    modules = [f"leafe_verl.trees.{f.stem}" for f in Path(trees.__file__).parent.glob("[!_]*.py")]
    assert len(modules) >= 11
    code = f"import sys, {', '.join(modules)}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not {"verl", "torch", "ray", "vllm", "datasets", "pandas"} & set(done.stdout.split())
