"""Every fault at once, in a run of real processes: it ends with success, and each fault is counted under its name."""

import signal
import subprocess

import psutil
import pytest

pytest.importorskip("vllm", reason="vllm is not installed; recipes/setup.sh installs it")
pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

from end_to_end.faulty import write_faults
from end_to_end.launch import launch, named, started, wait_until
from end_to_end.tiny_model import make_tiny_model
from leafe_verl.trees import read_trees

pytestmark = pytest.mark.end_to_end

BROKEN = ["raise", "hang", "flood", "leak", "kill sandbox", "die", "none"]
STALLED = ["stall"] + 7 * ["none"]
OUTCOMES = {"raise": "environment_failure", "hang": "environment_timeout", "flood": "environment_flood"}


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A disk of 1 MiB."""
    folder = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    yield folder if mounted.returncode == 0 else None
    if mounted.returncode == 0:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_disk):
    """Two steps: one of broken environments, one in which no turn comes. Trees by task and metrics by step."""
    run_dir = tmp_path_factory.mktemp("faults")
    store = small_disk or run_dir / "store"
    tasks = write_faults(run_dir / "faults.jsonl", [*BROKEN, "fill" if small_disk else "none", *STALLED])
    metrics = launch(
        "leafe",
        make_tiny_model(tmp_path_factory.mktemp("model")),
        run_dir,
        "leafe.environment.name=end_to_end.faulty:Faulty",
        f"+leafe.environment.options.marks={run_dir}",
        "leafe.environment.step_timeout=10",
        "leafe.generation.timeout=30",
        "leafe.budget.attempts=4",
        "leafe.distillation.recovery_targets=0",
        f"leafe.collection.store={store}",
        "leafe.collection.worker_memory=2500",
        f"data.train_files={tasks}",
        "data.train_batch_size=8",
        "data.shuffle=false",
        "trainer.total_training_steps=2",
        "trainer.save_freq=-1",
        "trainer.test_freq=-1",
    )
    return {tree.task.key: tree for tree, _ in read_trees(store)}, list(read_trees(store)), metrics


def test_the_store_holds_every_tree_once(run):
    trees, stored, _ = run
    expected = [f"{fault}{i}" for i, fault in enumerate([*BROKEN, "none", *STALLED])]
    assert sorted(trees) == sorted(key for key in expected if key != "none7" or "none7" in trees)
    assert len(stored) == len(trees)


@pytest.mark.parametrize("fault", OUTCOMES)
def test_a_broken_environment_costs_its_own_attempts(run, fault):
    trees, _, metrics = run
    tree = trees[f"{fault}{BROKEN.index(fault)}"]
    assert [attempt.outcome.value for attempt in tree.attempts] == [OUTCOMES[fault]] * 2
    assert metrics[1][f"leafe/outcome/{OUTCOMES[fault]}"] == 2


def test_the_other_tasks_are_played_and_trained_on(run):
    trees, _, metrics = run
    for key in ("leak3", "kill sandbox4", "die5", "none6"):
        assert [attempt.error for attempt in trees[key].attempts if not attempt.outcome.scored] == []
    assert metrics[1]["actor/grad_norm"] > 0


def test_what_dies_is_replaced_and_counted(run):
    _, _, metrics = run
    assert metrics[1]["leafe/rollout_worker_deaths"] == 1
    assert metrics[1]["leafe/sandboxes_lost"] == 1
    assert metrics[1]["leafe/inference_server_deaths"] == 0


def test_a_worker_in_which_memory_leaks_is_replaced(run):
    _, _, metrics = run
    assert [metrics[step]["leafe/rollout_worker_leaks"] for step in (1, 2)] == [0, 1]


def test_a_tree_that_the_disk_does_not_take_is_lost_alone(run, small_disk):
    if small_disk is None:
        pytest.skip("mounting a small disk needs root")
    trees, _, metrics = run
    assert "fill7" not in trees
    assert [metrics[1][f"leafe/{name}"] for name in ("trees", "trees_unkept", "missing")] == [7, 1, 1]
    assert [metrics[2][f"leafe/{name}"] for name in ("trees", "trees_unkept", "missing")] == [8, 0, 0]


def test_turns_that_do_not_come_end_the_attempts_under_way(run):
    trees, _, metrics = run
    stalled = [tree for key, tree in trees.items() if int(key.strip("abcdefghijklmnopqrstuvwxyz ")) >= 8]
    assert [attempt.outcome.value for tree in stalled for attempt in tree.attempts] == ["policy_timeout"] * 16
    assert metrics[2]["leafe/outcome/policy_timeout"] == 16


SMALL = [
    "leafe.budget.attempts=4",
    "leafe.environment.concurrency=1",
    "+leafe.environment.options.seconds=0.1",
    "trainer.total_training_steps=2",
    "trainer.test_freq=-1",
]


def keys(store):
    return sorted((provenance.step, tree.task.key) for tree, provenance in read_trees(store))


@pytest.mark.costly
@pytest.mark.parametrize("replicas", [1, 2])
def test_an_inference_engine_that_dies_is_replaced_and_no_attempt_lost(tmp_path, replicas):
    tasks = write_faults(tmp_path / "faults.jsonl", ["none", "kill server", *["none"] * 10])
    metrics = launch(
        "leafe",
        make_tiny_model(tmp_path / "model"),
        tmp_path,
        *SMALL,
        "leafe.environment.name=end_to_end.faulty:Faulty",
        f"+leafe.environment.options.marks={tmp_path}",
        f"data.train_files={tasks}",
        "data.shuffle=false",
        f"trainer.n_gpus_per_node={replicas}",
        "trainer.save_freq=-1",
    )
    store = tmp_path / "checkpoints" / "trees"
    assert len(keys(store)) == len(set(keys(store))) == 12
    assert all(attempt.outcome.scored for tree, _ in read_trees(store) for attempt in tree.attempts)
    assert [metrics[step]["leafe/inference_server_deaths"] for step in (1, 2)] == [1, 1]
    assert [metrics[step]["leafe/missing"] for step in (1, 2)] == [0, 0]


@pytest.mark.costly
@pytest.mark.parametrize("process", ["raylet", "driver", "everything"])
def test_a_preempted_node_costs_the_attempts_under_way(tmp_path, process):
    model, store = make_tiny_model(tmp_path / "model"), tmp_path / "checkpoints" / "trees"
    with started("leafe", model, tmp_path, *SMALL, "trainer.save_freq=1") as (launched, _):
        driver = psutil.Process(launched.pid)
        wait_until(lambda: len(keys(store)) >= 8, driver)
        family = [driver, *driver.children(recursive=True)]
        for each in {"driver": family[:1], "everything": family}.get(process) or named(family, "raylet/raylet"):
            each.send_signal(signal.SIGTERM if process == "everything" else signal.SIGKILL)
        assert launched.wait(120) != 0
    kept = keys(store)
    metrics = launch("leafe", model, tmp_path, *SMALL, "trainer.save_freq=1")
    assert set(kept) <= set(keys(store))
    assert len(keys(store)) == len(set(keys(store))) == 12
    assert max(metrics) == 2
