"""What a trainer does about inference servers that have died, with servers and workers that only note their calls."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest

pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

importlib.import_module("verl.trainer.ppo.v1")  # registers our trainers, as in a run

from verl.workers.engine_workers import ActorRolloutRefWorker

from leafe_verl.plugin.training import sft_worker
from leafe_verl.plugin.training.leafe_trainer import LeafeTrainer
from leafe_verl.plugin.training.sft_worker import PolicyWorker


class Cluster:
    """Stands for the servers, verl's manager of their weights and the workers. Dead servers take no call of verl's."""

    def __init__(self):
        self.dead, self.calls = True, []

    def restart_dead(self, *, now=False):
        found, self.dead = self.dead, False
        self.calls += ["restart"] if found else []
        return found

    def give_weights(self, sync):
        sync()

    def admit(self):
        self.calls.append("admit")

    def __getattr__(self, name):
        def call(*_arguments):
            assert not self.dead, f"{name} of a dead server"
            self.calls.append(name)

        return call


@pytest.fixture
def trainer():
    trainer = object.__new__(LeafeTrainer)
    trainer._servers = trainer.checkpoint_manager = trainer.actor_rollout_wg = Cluster()
    trainer._weights_step, trainer.curr_step_profile = 3, False
    return trainer


RESTARTED = ["restart", "forget_base_sync", "update_weights", "admit"]


@pytest.mark.parametrize(
    ("interrupted", "abandoned"), [(True, ["abort_replicas", "resume_generation_replicas"]), (False, [])]
)
def test_a_server_that_dies_as_sampling_ends_is_replaced_before_verl_calls_it(trainer, interrupted, abandoned):
    trainer._interrupted = interrupted
    trainer.on_sample_end()
    assert trainer._servers.calls == [*RESTARTED, *abandoned, "sleep_replicas"]


def test_a_server_that_dies_while_weights_are_trained_gets_all_of_them(trainer):
    trainer._stages, trainer.global_steps, trainer.timing_raw = "both", 4, {}
    trainer.activity = SimpleNamespace(begin=lambda *_, **__: None)
    trainer.on_step_end()
    assert trainer._servers.calls == ["restart", "forget_base_sync", "admit", "update_weights"]


def test_living_servers_get_what_has_changed_alone(trainer):
    trainer._servers.dead = False
    trainer._bring_back_dead_servers(now=True)
    assert trainer._servers.calls == []


@pytest.mark.parametrize("load_format", ["dummy", "auto"])
def test_a_server_that_is_started_again_gets_the_base_weights_of_lora_as_the_first_one_did(monkeypatch, load_format):
    def init_model(worker):
        worker.base_sync_done = "dummy" not in load_format  # as in engine_workers.py

    monkeypatch.setattr(sft_worker, "prepare_engine", lambda: None)
    monkeypatch.setattr(ActorRolloutRefWorker, "init_model", init_model)
    worker = object.__new__(PolicyWorker)
    worker.init_model()
    worker.base_sync_done = True  # by the first sync
    worker.forget_base_sync()
    assert worker.base_sync_done == (load_format == "auto")


def test_a_worker_without_a_rollout_has_nothing_to_forget(monkeypatch):
    monkeypatch.setattr(sft_worker, "prepare_engine", lambda: None)
    monkeypatch.setattr(ActorRolloutRefWorker, "init_model", lambda worker: None)
    worker = object.__new__(PolicyWorker)
    worker.init_model()
    worker.forget_base_sync()
