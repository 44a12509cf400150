"""leafe-verl evaluate with verl and vLLM on a tiny random model: collect, lose a tree, extend."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vllm is not installed; recipes/setup.sh installs it")
pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

from end_to_end.launch import LIMIT_SECONDS, TESTS, write_tasks
from end_to_end.tiny_model import make_tiny_model
from leafe_verl.evaluation.results import missing_attempts, read_evaluation

pytestmark = pytest.mark.end_to_end


def evaluate(model: Path, tasks: Path, out: Path, attempts: int) -> str:
    """Run the verb and return what it printed. Fails with its end."""
    command = [sys.executable, "-m", "leafe_verl", "evaluate", "--device", "cpu", "--attempts", str(attempts)]
    command += ["--model", str(model), "--tasks", str(tasks), "--out", str(out)]
    command += ["leafe.environment.name=end_to_end.letters:Letters", "leafe.generation.max_tokens=24"]
    command += ["leafe.reflection.max_tokens=24", "data.max_prompt_length=768", "data.max_response_length=256"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(TESTS),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        command, env=environment, cwd=out.parent, capture_output=True, text=True, timeout=LIMIT_SECONDS
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


def test_what_is_missing_is_collected_and_nothing_twice(tmp_path):
    model, out = make_tiny_model(tmp_path / "model"), tmp_path / "out"
    tasks = write_tasks(tmp_path / "tasks.jsonl", 3)
    table = evaluate(model, tasks, out, attempts=4)
    assert "Pass@4" in table
    (first,) = out.glob("trees-*.arrow")
    assert len(read_evaluation(out)) == 12

    first.write_bytes(first.read_bytes()[:-30])  # as a killed process leaves it
    table = evaluate(model, tasks, out, attempts=6)
    assert "Pass@6" in table
    trees = read_evaluation(out)
    assert len(trees) == 18, "eleven of the first call; two more of each task, and the one that was lost"
    assert missing_attempts(trees, ["0", "1", "2"], 6) == {}

    third = evaluate(model, tasks, out, attempts=6)
    assert "lacks" not in third and "Pass@6" in third, "everything is there: verl is not started"
    assert len(list(out.glob("trees-*.arrow"))) == 2
