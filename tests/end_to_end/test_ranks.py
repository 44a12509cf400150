"""The same examples give the same loss and weights: on one rank and on two, padded, packed, and as prefix trees."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

from end_to_end.tiny_model import make_tiny_model

pytestmark = pytest.mark.end_to_end


def update(model: Path, output: Path, ranks: int, *options: str) -> dict[str, float]:
    script = Path(__file__).with_name("sft_update.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    done = subprocess.run(
        [*command, str(script), str(model), str(output), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(output.read_text())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def one_rank(model, tmp_path_factory):
    return update(model, tmp_path_factory.mktemp("one") / "numbers.json", 1)


def test_two_ranks_equal_one(model, one_rank, tmp_path):
    assert one_rank["loss"] > 1
    assert one_rank["loss"] == pytest.approx(
        one_rank["loss_counterfactual"] + 0.5 * one_rank.get("loss_rehearsal", 0), abs=1e-4
    )
    assert update(model, tmp_path / "numbers.json", 2) == pytest.approx(one_rank, abs=1e-3)


def test_prefix_trees_on_two_ranks_equal_examples_one_by_one(model, one_rank, tmp_path):
    assert update(model, tmp_path / "numbers.json", 2, "--share-prefixes") == pytest.approx(one_rank, abs=1e-3)


def test_three_ranks_share_the_tokens_of_prefix_trees(model, one_rank, tmp_path):
    """Each has one of the model's three key-value heads. verl takes sequence parallelism with packed rows alone; trees
    are neither packed nor padded."""
    options = ("--share-prefixes", "--remove-padding", "--ranks-of-a-sequence", "3")
    assert update(model, tmp_path / "numbers.json", 3, *options) == pytest.approx(one_rank, abs=1e-3)


def test_packed_rows_equal_padded_ones(model, one_rank, tmp_path):
    assert update(model, tmp_path / "numbers.json", 1, "--remove-padding") == pytest.approx(one_rank, abs=1e-3)


def test_pairs_of_dpo_on_two_ranks_equal_those_on_one(model, tmp_path):
    """Three updates on five pairs, one of which lies on both ranks."""
    alone = update(model, tmp_path / "one.json", 1, "--pairs")
    assert alone["loss_preference"] < 0.69 and alone["reward_margin"] > 0
    assert alone["pair_accuracy"] == pytest.approx(1.0)
    assert alone["loss"] == pytest.approx(alone["loss_preference"] + 0.5 * alone.get("loss_rehearsal", 0), abs=1e-4)
    assert update(model, tmp_path / "two.json", 2, "--pairs") == pytest.approx(alone, abs=1e-3)


def test_teachers_on_several_ranks_say_what_they_say_on_one(model, tmp_path):
    """Three updates on four branches, whose teachers are asked before the first one."""
    alone = update(model, tmp_path / "one.json", 1, "--teachers")
    assert alone["taught_tokens"] > 20 and alone["teacher_kl"] > 0 and 0 < alone["teacher_mass"] < 1
    assert alone["loss"] == pytest.approx(alone["loss_counterfactual"] + 0.5 * alone.get("loss_rehearsal", 0), abs=1e-4)
    assert update(model, tmp_path / "two.json", 2, "--teachers") == pytest.approx(alone, abs=1e-3)
    one_sequence = ("--teachers", "--remove-padding", "--ranks-of-a-sequence", "3")
    assert update(model, tmp_path / "three.json", 3, *one_sequence) == pytest.approx(alone, abs=1e-3)
