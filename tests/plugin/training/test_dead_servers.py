"""What a trainer does about inference servers that have died, with servers and workers that only note what they do."""

from __future__ import annotations

import importlib

import pytest

pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

importlib.import_module("verl.trainer.ppo.v1")  # registers our trainers, as in a run

from leafe_verl.plugin.training.leafe_trainer import LeafeTrainer


class Cluster:
    """Stands for the servers, and for verl's manager of their weights. A dead server takes no call of verl's."""

    def __init__(self):
        self.dead, self.calls = True, []

    def replace_dead(self, *, now=False):
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
    trainer._servers = trainer.checkpoint_manager = Cluster()
    trainer._weights_step, trainer.curr_step_profile = 3, False
    return trainer


RESTARTED = ["restart", "update_weights", "admit"]


@pytest.mark.parametrize(
    ("interrupted", "abandoned"), [(True, ["abort_replicas", "resume_generation_replicas"]), (False, [])]
)
def test_a_server_that_dies_as_sampling_ends_is_replaced_before_verl_calls_it(trainer, interrupted, abandoned):
    trainer._interrupted = interrupted
    trainer.on_sample_end()
    assert trainer._servers.calls == [*RESTARTED, *abandoned, "sleep_replicas"]
