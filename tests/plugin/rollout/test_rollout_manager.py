"""Rollout workers that die, with Ray replaced by objects that answer at once."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

from omegaconf import OmegaConf
from ray.exceptions import GetTimeoutError, RayActorError
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ
from verl.utils.tensordict_utils import get_tensordict

from leafe_verl.plugin.rollout import rollout_worker
from leafe_verl.plugin.rollout.rollout_worker import MAX_DEATHS_PER_TASK, ProcessUsage, RolloutManager, measure_usage

NODE = "7" * 56
"""Ray's id of the node that the first workers run on."""


class Reference:
    """The answer to a call."""

    def __init__(self, worker, call, arguments):
        self.worker, self.call, self.arguments = worker, call, arguments

    def __call__(self):
        return self.worker.answer(self.call, *self.arguments)


class Method:
    def __init__(self, worker, call):
        self.worker, self.call = worker, call

    def remote(self, *arguments):
        return Reference(self.worker, self.call, arguments)


class Worker:
    def __init__(self):
        self.dead, self.hangs, self.played, self.stopped, self.strategy = False, False, [], [], None
        self.ping = self.next_end = Method(self, lambda: None)
        self.held = ProcessUsage(memory=100, descriptors=0.1, losses={"sandboxes_lost": 1}, node=NODE)
        self.usage = Method(self, lambda: self.held)
        self.unscored = {"environment_steps": 2}
        self.take_unscored = Method(self, lambda: self.unscored)
        self.stop_exploring = SimpleNamespace(remote=self.stopped.append)
        self.generate_sequences = Method(self, lambda share: self.played.append([str(uid) for uid in share["uid"]]))

    def hang(self, _share):
        raise GetTimeoutError()

    def answer(self, call, *arguments):
        if self.dead:
            raise RayActorError()
        if self.hangs:
            raise GetTimeoutError()
        return call(*arguments)


class Ray:
    """`get` calls, and everything is ready at once, but for what a worker that hangs is asked."""

    def __init__(self):
        self.made = []

    def remote(self, _class):
        return self

    def options(self, name, scheduling_strategy):
        made = self.made

        class Class:
            @staticmethod
            def remote(*_arguments):
                made.append(Worker())
                made[-1].strategy = scheduling_strategy
                return made[-1]

        return Class

    def kill(self, worker):
        worker.dead = True

    def get(self, reference, timeout=None):
        return [call() for call in reference] if isinstance(reference, list) else reference()

    def wait(self, references, timeout):
        waiting = [each for each in references if each.worker.hangs and not each.worker.dead]
        return [each for each in references if each not in waiting], waiting


@pytest.fixture
def ray(monkeypatch):
    ray = Ray()
    monkeypatch.setattr(rollout_worker, "ray", ray)
    monkeypatch.setattr(rollout_worker, "PING_SECONDS", 0.0)
    monkeypatch.setattr(AgentLoopManagerTQ, "__init__", lambda self: None)
    return ray


@pytest.fixture
def given_up(monkeypatch):
    keys = []
    monkeypatch.setattr(rollout_worker.tq, "kv_put", lambda key, partition_id, tag: keys.append((key, tag["status"])))
    return keys


@pytest.fixture
def stored(monkeypatch):
    """What TransferQueue holds of the training partition, by its key."""
    rows = {}

    def clear(keys, partition_id):
        for key in keys:
            del rows[key]

    monkeypatch.setattr(rollout_worker.tq, "kv_list", lambda partition_id: {partition_id: rows})
    monkeypatch.setattr(rollout_worker.tq, "kv_clear", clear)
    return rows


@pytest.fixture
def manager(ray, stored):
    manager = RolloutManager()
    manager.config = OmegaConf.create({"leafe": {"collection": {"worker_memory": 1000}}})
    manager.llm_client = manager.teacher_client = manager.reward_loop_worker_handles = None
    manager.agent_loop_workers = [Worker(), Worker()]
    return manager


def tasks(number):
    uids = np.array([f"u{i}" for i in range(number)], dtype=object)
    return get_tensordict({"uid": uids, "index": torch.arange(number)})


def look(manager, unfinished):
    """A ping is sent at one look and its answer read at the next."""
    manager.replace_dead(unfinished, "train")
    manager.replace_dead(unfinished, "train")


def test_an_ended_task_is_noticed_without_waiting_a_dead_worker_is_not_asked_again_and_again(manager, monkeypatch):
    slept = []
    monkeypatch.setattr(rollout_worker.time, "sleep", slept.append)
    manager.wait_for_end(1.0)
    assert slept == []
    manager.agent_loop_workers[1].dead = True
    manager.wait_for_end(1.0)
    assert slept == [1.0]


def test_tasks_are_shared_out(manager):
    manager.generate_sequences(tasks(4))
    assert [worker.played for worker in manager.agent_loop_workers] == [[["u0", "u1"]], [["u2", "u3"]]]
    look(manager, {"u0"})
    assert manager.faults == {"rollout_worker_deaths": 0, "rollout_worker_leaks": 0}


def test_a_dead_worker_s_unfinished_tasks_are_played_again(manager, ray, given_up, stored):
    manager.generate_sequences(tasks(4))
    manager.agent_loop_workers[1].dead = True
    stored.update(dict.fromkeys(("u3", "u3_0_0", "u3_0_1", "u2_0_0"), {}))
    look(manager, {"u0", "u3"})
    assert {*stored} == {"u3", "u2_0_0"}, "what the dead worker stored of u3 is of another play"
    assert manager.faults["rollout_worker_deaths"] == 1 and manager.agent_loop_workers[1] is ray.made[0]
    assert ray.made[0].played == [["u3"]]
    assert manager.agent_loop_workers[0].played == [["u0", "u1"]]
    assert given_up == []


def test_a_worker_that_hangs_within_a_step_is_killed_and_replaced(manager, ray, monkeypatch):
    manager.generate_sequences(tasks(4))
    stuck = manager.agent_loop_workers[1]
    stuck.hangs = True
    look(manager, {"u0", "u3"})
    assert manager.faults["rollout_worker_deaths"] == 0, "it may be busy"
    monkeypatch.setattr(rollout_worker, "STUCK_SECONDS", -1.0)
    look(manager, {"u0", "u3"})
    assert manager.faults["rollout_worker_deaths"] == 1 and stuck.dead, "it must not play on beside the new one"
    assert manager.agent_loop_workers[1] is ray.made[0] and ray.made[0].played == [["u3"]]


def test_a_worker_that_hangs_when_it_is_given_tasks_is_replaced(manager, ray):
    stuck = manager.agent_loop_workers[0]
    stuck.generate_sequences = Method(stuck, stuck.hang)
    manager.generate_sequences(tasks(2))
    assert stuck.dead and ray.made[0].played == [["u0"]]


def test_a_worker_that_is_replaced_after_the_stop_is_stopped_too(manager, ray):
    manager.generate_sequences(tasks(4))
    manager.stop_exploring(3)
    manager.agent_loop_workers[0].dead = True
    look(manager, {"u0", "u1"})
    assert ray.made[-1].stopped == [3] and len(ray.made[-1].played) == 1
    manager.generate_sequences(tasks(4))
    manager._replace(1)
    assert ray.made[-1].stopped == [], "another step"


def test_a_worker_is_replaced_on_its_own_node(manager, ray):
    manager.generate_sequences(tasks(2))
    manager.agent_loop_workers[1].dead = True
    look(manager, {"u1"})
    assert (ray.made[0].strategy.node_id, ray.made[0].strategy.soft) == (NODE, True)
    fresh = manager.agent_loop_workers[0]
    manager._nodes.clear()
    fresh.dead = True
    look(manager, {"u0"})
    assert ray.made[1].strategy == "DEFAULT", "one that never answered is on no known node"


def test_a_task_that_kills_every_worker_is_given_up(manager, ray, given_up):
    manager.generate_sequences(tasks(4))
    for _ in range(MAX_DEATHS_PER_TASK):
        manager.agent_loop_workers[0].dead = True
        look(manager, {"u0", "u1"})
    assert given_up == [("u0", "failure"), ("u1", "failure")]
    assert [worker.played for worker in ray.made] == [[["u0", "u1"]], []]


def test_the_tasks_of_a_worker_that_finishes_some_before_it_dies_are_not_to_blame(manager, ray, given_up):
    manager.generate_sequences(tasks(8))
    for left in ({"u1", "u2", "u3"}, {"u2", "u3"}, {"u3"}):
        manager.agent_loop_workers[0].dead = True
        look(manager, left)
    assert given_up == [] and ray.made[-1].played == [["u3"]], "an environment leaks, and every play gets further"


def test_a_worker_that_died_between_steps_is_replaced_before_it_plays(manager, ray):
    manager.agent_loop_workers[0].dead = True
    manager.generate_sequences(tasks(2))
    assert manager.faults["rollout_worker_deaths"] == 1 and ray.made[0].played == [["u0"]]


@pytest.mark.parametrize("held", [{"memory": 1001}, {"descriptors": 0.6}])
def test_a_worker_that_leaks_is_replaced_when_a_step_begins(manager, ray, held):
    first, second = manager.agent_loop_workers
    second.held = replace(second.held, **held)
    manager.generate_sequences(tasks(2))
    assert manager.agent_loop_workers == [first, ray.made[0]] and second.dead
    assert (first.played, second.played, ray.made[0].played) == ([["u0"]], [], [["u1"]])
    assert manager.faults == {"rollout_worker_deaths": 0, "rollout_worker_leaks": 1}
    assert manager.losses() == {"sandboxes_lost": 3}, "what the first two have lost and what the third has"


def test_a_process_knows_what_it_holds():
    held = measure_usage()
    assert held.memory > 10 and 0 < held.descriptors < 1
    assert set(held.losses) == {"sandboxes_lost", "environment_processes_lost"}


def test_unscored_attempts_are_added_up_over_the_workers_that_answer(manager):
    assert manager.take_unscored() == {"environment_steps": 4}
    manager.agent_loop_workers[0].dead = True
    assert manager.take_unscored() == {"environment_steps": 2}
