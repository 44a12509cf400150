"""Inference servers that die, with Ray and verl's servers replaced by objects that answer at once."""

import asyncio
import threading

import pytest

pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

from ray.exceptions import RayActorError, RayTaskError
from verl.workers.rollout.llm_server import LLMServerClient

from leafe_verl.plugin.rollout import inference_servers, required_actors
from leafe_verl.plugin.rollout.inference_servers import InferenceServers, RetryingClient


def task_error(cause):
    return RayTaskError("generate", f"Traceback\n{type(cause).__name__}: {cause}", cause)


class EngineDeadError(Exception):
    """Named as vLLM's."""


@pytest.mark.parametrize(
    "loss",
    [
        RayActorError(),
        task_error(EngineDeadError("EngineCore encountered an issue.")),
        task_error(RuntimeError("No available servers in load balancer")),
    ],
)
def test_a_request_that_loses_its_server_is_sent_again(monkeypatch, loss):
    answers = [loss, loss, "a turn"]

    async def generate(self, request_id, **request):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return request_id, request, answer

    monkeypatch.setattr(LLMServerClient, "generate", generate)
    monkeypatch.setattr(inference_servers, "RETRY_SECONDS", 0.0)
    client = RetryingClient(config=None)
    assert asyncio.run(client.generate("tree", prompt_ids=[1])) == ("tree", {"prompt_ids": [1]}, "a turn")


def test_another_error_of_a_server_is_no_loss(monkeypatch):
    async def generate(self, request_id, **request):
        raise task_error(ValueError("max_tokens is -1"))

    monkeypatch.setattr(LLMServerClient, "generate", generate)
    with pytest.raises(RayTaskError, match="max_tokens is -1"):
        asyncio.run(RetryingClient(config=None).generate("tree"))


class Method:
    """An actor's method, called at once."""

    def __init__(self, call):
        self.remote = call


class Server:
    def __init__(self):
        self.dead = self.engine_dead = False
        self.__ray_call__ = Method(self._look)

    def _look(self, _function):
        if self.dead:
            return RayActorError()
        return self.engine_dead


class Replica:
    def __init__(self, name):
        self.name, self.starts = name, 0
        self.servers = []
        asyncio.run(self.launch_servers())

    async def launch_servers(self):
        self.starts += 1
        self.servers.append(Server())

    @property
    def server_handle(self):
        return self.servers[0]

    @property
    def server_address(self):
        return f"{self.name}:{self.starts}"


class Balancer:
    def __init__(self, servers):
        self.servers = dict(servers)
        self.remove_servers = Method(lambda keys: [self.servers.pop(key) for key in keys])
        self.get_all_servers = Method(lambda: list(self.servers))
        self.add_servers = Method(self.servers.update)
        self.dead = False
        self.__ray_call__ = Method(lambda question: RayActorError() if self.dead else None)


class Manager:
    """verl's LLMServerManager, as far as it is used."""

    def __init__(self):
        self.rollout_replicas = [Replica("a"), Replica("b")]
        self.server_handles = [replica.server_handle for replica in self.rollout_replicas]
        self.server_addresses = [replica.server_address for replica in self.rollout_replicas]
        self.global_load_balancer = Balancer(zip(self.server_addresses, self.server_handles, strict=True))

    def get_replicas(self):
        return self.rollout_replicas


class Ray:
    @staticmethod
    def get(references):
        for reference in references if isinstance(references, list) else [references]:
            if isinstance(reference, Exception):
                raise reference
        return references

    @staticmethod
    def wait(references, num_returns=1, timeout=None):
        return references, []

    @staticmethod
    def kill(server):
        server.dead = True


@pytest.fixture
def manager(monkeypatch):
    monkeypatch.setattr(inference_servers, "ray", Ray)
    monkeypatch.setattr(required_actors, "ray", Ray)
    return Manager()


def test_without_its_load_balancer_a_run_ends(manager):
    servers = InferenceServers(manager, lambda: None)
    manager.global_load_balancer.dead = True
    with pytest.raises(RuntimeError, match="load balancer died.*run the same command again"):
        servers.restart_dead()


@pytest.mark.parametrize("way", ["dead", "engine_dead"])
def test_a_dead_server_is_started_again_and_gets_no_request_before_its_weights(manager, way):
    servers, balancer = InferenceServers(manager, lambda: rooms.append(old.dead)), manager.global_load_balancer
    rooms = []
    old = manager.server_handles[1]
    setattr(old, way, True)
    assert servers.restart_dead(now=True) and servers.deaths == 1
    assert rooms == [way == "dead"], "the trainer makes room once, before a server starts"
    assert list(balancer.servers) == ["a:1"], "requests go to the living alone"
    servers.admit()
    assert list(balancer.servers) == ["a:1", "b:2"]
    assert old.dead and balancer.servers["b:2"] is manager.server_handles[1] is manager.rollout_replicas[1].servers[0]
    assert not servers.restart_dead(now=True)


def test_living_servers_are_left_alone_and_asked_now_and_then(manager):
    servers = InferenceServers(manager, lambda: pytest.fail("nothing starts"))
    assert not servers.restart_dead(now=True)
    manager.server_handles[0].dead = True
    assert not servers.restart_dead(), "looked a moment ago"
    assert [replica.starts for replica in manager.rollout_replicas] == [1, 1]


def test_weights_are_not_waited_for_where_a_server_dies_meanwhile(manager, monkeypatch):
    monkeypatch.setattr(inference_servers, "PING_SECONDS", 0.01)
    servers, given, never = InferenceServers(manager, lambda: None), [], threading.Event()
    servers.give_weights(lambda: given.append("weights"))
    assert given == ["weights"]
    with pytest.raises(ZeroDivisionError):
        servers.give_weights(lambda: 1 / 0)
    manager.server_handles[1].dead = True
    with pytest.raises(RuntimeError, match="died while weights were sent to it"):
        servers.give_weights(never.wait)
    never.set()


def test_weights_that_nobody_takes_are_not_waited_for_without_end(manager, monkeypatch):
    monkeypatch.setattr(inference_servers, "PING_SECONDS", 0.01)
    monkeypatch.setattr(inference_servers, "WEIGHTS_SECONDS", 0.05)
    never = threading.Event()
    with pytest.raises(RuntimeError, match="have not taken the weights within 0 minutes"):
        InferenceServers(manager, lambda: None).give_weights(never.wait)
    never.set()
