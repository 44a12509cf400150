"""Two nodes of a Ray cluster, on one machine and without GPUs: what is trained there, and what a killed node costs."""

from __future__ import annotations

import re
import time

import pytest

pytest.importorskip("vllm", reason="vllm is not installed; recipes/setup.sh installs it")
pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

from ray.cluster_utils import Cluster

from end_to_end.launch import LIMIT_SECONDS, TESTS, evaluate, launch, started, write_tasks
from end_to_end.tiny_model import make_tiny_model
from leafe_verl.checkpoints import STEP, is_whole
from leafe_verl.evaluation.results import read_evaluation
from leafe_verl.trees import index

pytestmark = [pytest.mark.end_to_end, pytest.mark.costly]

NODE = {"num_gpus": 1, "num_cpus": 16, "object_store_memory": 200 * 2**20}
"""A node of the cluster. Its GPU and its cores are logical."""
WORKERS = {
    "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
    "VERL_USE_EXTERNAL_MODULES": "end_to_end.probe",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
"""Ray's workers get the variables of the process that started their node, and not those of the launcher."""
TWO_NODES = ["trainer.nnodes=2", "trainer.n_gpus_per_node=1"]
SAME_RANKS = ["trainer.n_gpus_per_node=2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def explored(model, tmp_path_factory):
    """The RUN_DIR of a run that only explores, on one machine."""
    run_dir = tmp_path_factory.mktemp("explored")
    launch("leafe", model, run_dir, "leafe.schedule.stages=explore", "trainer.total_training_steps=1")
    return run_dir


@pytest.fixture
def cluster(monkeypatch):
    for name, value in WORKERS.items():
        monkeypatch.setenv(name, value)
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        cluster.add_node(**NODE)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    finally:
        cluster.shutdown()


def test_the_first_update_is_that_of_one_node_with_as_many_ranks(model, explored, cluster, monkeypatch, tmp_path):
    given = ["leafe.schedule.stages=distil", "trainer.total_training_steps=1"]
    given.append(f"leafe.collection.store={explored}/checkpoints/trees")
    given.append("actor_rollout_ref.actor.optim.lr=0")  # metrics are means over updates, each then of the first weights
    two = launch("leafe", model, tmp_path / "two", *given, *TWO_NODES)[1]
    cluster.shutdown()
    monkeypatch.delenv("RAY_ADDRESS")
    one = launch("leafe", model, tmp_path / "one", *given, *SAME_RANKS)[1]
    compared = [name for name in one if name == "actor/grad_norm" or name.startswith("actor/loss")]
    assert len(compared) >= 3 and one["actor/grad_norm"] > 0
    assert {name: two[name] for name in compared} == pytest.approx({name: one[name] for name in compared}, abs=1e-3)


def test_grpo_trains_on_both(model, cluster, tmp_path):
    metrics = launch("grpo", model, tmp_path / "grpo", *TWO_NODES, "trainer.total_training_steps=1")[1]
    assert metrics["leafe/environment_steps"] > 0 and metrics["leafe/updates"] >= 1


def test_an_evaluation_plays_on_both(model, cluster, tmp_path):
    tasks, out = ("--tasks", write_tasks(tmp_path / "tasks.jsonl", 4)), tmp_path / "out"
    assert "Pass@2" in evaluate(model, tasks, out, 2, *TWO_NODES)
    assert len(read_evaluation(out)) == 8
    servers = set(re.findall(r"\(vLLMHttpServer pid=\d+", (out / "log.txt").read_text(errors="replace")))
    assert len(servers) == 2, "a server on each node"


def test_a_killed_node_costs_the_step_in_which_it_dies(model, cluster, tmp_path):
    run_dir, steps = tmp_path / "leafe", ["trainer.total_training_steps=2", "trainer.save_freq=1"]
    with started("leafe", model, run_dir, *TWO_NODES, *steps) as (process, _):
        saved = run_dir / "checkpoints" / f"{STEP}1"
        deadline = time.monotonic() + LIMIT_SECONDS
        while not is_whole(saved):
            assert process.poll() is None, (run_dir / "log.txt").read_text(errors="replace")[-4000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (second,) = cluster.worker_nodes
        cluster.remove_node(second, allow_graceful=False)
        assert process.wait(LIMIT_SECONDS) != 0, "it does not wait for ever"
    before = {key for key in index(run_dir / "checkpoints" / "trees") if key.step == 1}
    assert len(before) == 6

    cluster.add_node(**NODE)
    metrics = launch("leafe", model, run_dir, *TWO_NODES, *steps)
    assert [*metrics] == [2], "the first step is not trained again"
    assert {key for key in index(run_dir / "checkpoints" / "trees") if key.step == 1} == before
    assert is_whole(run_dir / "checkpoints" / f"{STEP}2")
