"""What a killed run had collected, and stage 2 alone, on a tiny random model."""

import math

import pytest

pytest.importorskip("vllm", reason="vllm is not installed; recipes/setup.sh installs it")
pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

from end_to_end.launch import find_worker, launch, launch_and_kill, wait_until
from end_to_end.tiny_model import make_tiny_model
from leafe_verl.trees import index, read_trees

pytestmark = pytest.mark.end_to_end

TASKS = 12
MINI_BATCH = 4 * 2  # actor.ppo_mini_batch_size of device/cpu.yaml times rollout.n of launch.py
ALL_ONCE = ["leafe.schedule.collect=all", "actor_rollout_ref.actor.ppo_epochs=2", "trainer.save_freq=-1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def two_stages(model, tmp_path_factory):
    """The paper's schedule, killed while it collects and started again, and then only its rollout worker is killed.

    Its store, files of the killed run, metrics.
    """
    run_dir = tmp_path_factory.mktemp("two_stages")
    store = run_dir / "checkpoints" / "trees"
    slow = ["leafe.environment.concurrency=1", "+leafe.environment.options.seconds=0.1"]
    launch_and_kill("leafe", model, run_dir, *ALL_ONCE, *slow, when=lambda: len(index(store)) >= 3)
    killed = {location.path for location in index(store).values()}
    kept = len(index(store))

    def kill(driver):
        # Looked for beforehand, since trees end within a second of each other: as Ray calls ours while it plays.
        worker = find_worker(driver, "AgentLoopWorkerTQ")
        wait_until(lambda: len(index(store)) >= min(kept + 1, TASKS), driver)
        worker.kill()

    return store, killed, launch("leafe", model, run_dir, *ALL_ONCE, *slow, meanwhile=kill)


def test_no_finished_tree_is_lost_or_collected_twice(two_stages):
    store, killed, metrics = two_stages
    after = index(store)
    assert sorted(key.task_key for key in after) == sorted(str(task) for task in range(TASKS))
    assert len(list(read_trees(store))) == len(after)
    assert sorted(metrics) == [1]
    assert metrics[1]["leafe/trees"] == TASKS
    kept = [location for location in after.values() if location.path in killed]
    assert 3 <= len(kept) < TASKS
    # The second rollout worker also finds what the first one had kept but not yet delivered.
    assert len(kept) <= metrics[1]["leafe/trees_from_store"] < TASKS


def test_a_rollout_worker_that_dies_is_replaced(two_stages):
    _, _, metrics = two_stages
    assert metrics[1]["leafe/rollout_worker_deaths"] == 1
    assert metrics[1]["leafe/missing"] == 0


def test_stage_two_alone_gives_the_losses_of_both_stages(two_stages, model, tmp_path):
    store, _, both = two_stages
    alone = launch(
        "leafe", model, tmp_path, *ALL_ONCE, "leafe.schedule.stages=distil", f"leafe.collection.store={store}"
    )
    assert alone[1]["leafe/trees_from_store"] == TASKS
    assert alone[1]["leafe/confirmations"] == both[1]["leafe/confirmations"] > 0
    examples = sum(alone[1][f"leafe/examples/{kind}"] for kind in ("counterfactual", "rehearsal", "recovery", "hold"))
    two_epochs = 2 * math.ceil(examples / MINI_BATCH)
    assert alone[1]["leafe/updates"] == both[1]["leafe/updates"] == two_epochs > 0
    for term in ("loss_counterfactual", "loss_rehearsal", "loss_recovery", "loss_hold", "teacher_kl", "grad_norm"):
        assert alone[1][f"actor/{term}"] == pytest.approx(both[1][f"actor/{term}"], rel=1e-5)
    assert "vLLMHttpServer" not in (tmp_path / "log.txt").read_text(errors="replace")


def test_a_step_without_examples_is_skipped(two_stages, model, tmp_path):
    store, _, _ = two_stages
    none = ("events_per_task", "rehearsal_share", "recovery_targets", "hold_share")
    nothing = [f"leafe.distillation.{name}=0" for name in none]
    alone = ["leafe.schedule.stages=distil", f"leafe.collection.store={store}", "trainer.save_freq=-1"]
    metrics = launch("leafe", model, tmp_path, *nothing, *alone, "trainer.total_training_steps=2")
    assert [metrics[step]["leafe/trees_from_store"] for step in (1, 2)] == [TASKS // 2, TASKS // 2]
    assert not any("actor/loss" in metrics[step] for step in (1, 2))
