"""With a seed and verl's full determinism, two runs collect the same trees."""

import pytest

pytest.importorskip("vllm", reason="vllm is not installed; recipes/setup.sh installs it")
pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

from end_to_end.launch import launch
from end_to_end.tiny_model import make_tiny_model
from leafe_verl.trees.reader import read_rows

pytestmark = [pytest.mark.end_to_end, pytest.mark.costly]

FULL_DETERMINISM = [
    "actor_rollout_ref.rollout.full_determinism=true",
    "actor_rollout_ref.actor.fsdp_config.full_determinism=true",
    "actor_rollout_ref.rollout.max_num_seqs=1",
]
STEPS = 2


def trees(model, run_dir, *overrides):
    """Step and task -> what was stored of the tree, but for the time."""
    run = [f"trainer.total_training_steps={STEPS}", "trainer.save_freq=-1", "trainer.test_freq=-1"]
    launch("leafe", model, run_dir, *run, *overrides)
    rows = [row for _, row in read_rows(run_dir / "checkpoints" / "trees")]
    assert all(row.pop("collected_at") for row in rows)
    return {(row["step"], row["task_key"]): row for row in rows}


def test_two_runs_collect_the_same_trees(tmp_path):
    model = make_tiny_model(tmp_path / "model")
    first, second = (trees(model, tmp_path / name, *FULL_DETERMINISM) for name in ("first", "second"))
    assert len(first) == 6 * STEPS
    assert first == second
    texts = {step["action"]["text"] for row in first.values() for a in row["attempts"] for step in a["steps"]}
    assert len(texts) > len(first), "attempts of one task differ"
