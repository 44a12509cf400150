"""Figures are read and compared without the training stack."""

import subprocess
import sys
from pathlib import Path

from leafe_verl import evaluation


def test_evaluation_loads_neither_verl_nor_torch_nor_a_plotting_library():
    modules = [f"leafe_verl.evaluation.{file.stem}" for file in Path(evaluation.__file__).parent.glob("[!_]*.py")]
    assert len(modules) >= 9
    code = f"import sys, {', '.join(modules)}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not {"verl", "torch", "ray", "vllm", "matplotlib", "plotext"} & set(done.stdout.split())
