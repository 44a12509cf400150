"""The same examples on one rank and on two give the same loss and the same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

from end_to_end.tiny_model import make_tiny_model

pytestmark = pytest.mark.end_to_end


def update(model: Path, output: Path, ranks: int) -> dict[str, float]:
    script = Path(__file__).with_name("sft_update.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    done = subprocess.run(
        [*command, str(script), str(model), str(output)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(output.read_text())


def test_two_ranks_equal_one(tmp_path):
    model = make_tiny_model(tmp_path / "model")
    one, two = (update(model, tmp_path / f"{ranks}.json", ranks) for ranks in (1, 2))
    assert one["loss"] > 1
    assert two == pytest.approx(one, abs=1e-3)
    assert one["loss"] == pytest.approx(one["loss_counterfactual"] + 0.5 * one["loss_rehearsal"], abs=1e-4)
