"""Inference servers that die: requests wait for another one, and the dead are started again with the present weights.

verl's load balancer goes on handing out a dead server, and verl has no way back for a replica. Here every request is
sent again (it is a prompt, and has no effect but its answer), so that a server's death costs its time alone.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from verl.utils.ray_utils import auto_await
from verl.workers.rollout.llm_server import LLMServerClient, LLMServerManager
from verl.workers.rollout.replica import RolloutReplica, TokenOutput

from leafe_verl.plugin.rollout.worker_state import WorkerState

logger = logging.getLogger(__name__)

PING_SECONDS = 5.0
ANSWER_SECONDS = 2.0
"""How long a server may take to answer; one that is busy for longer is taken for alive."""
RETRY_SECONDS = 1.0
NO_SERVERS = "No available servers in load balancer"
"""What verl/workers/rollout/router.py says when all servers have been removed."""


def is_loss(error: Exception) -> bool:
    """Whether a request failed for want of a server: it died, its engine did, or there is none at present."""
    if isinstance(error, RayActorError):
        return True
    return isinstance(error, RayTaskError) and ("EngineDeadError" in str(error) or NO_SERVERS in str(error))


class RetryingClient(LLMServerClient):  # type: ignore[misc]  # verl is Any to mypy
    """verl's client; a request that loses its server is sent again. Its caller bounds the time."""

    worker_state: WorkerState
    """State that all loops of a rollout worker share. Set by the rollout worker; the trainer's client has none."""

    async def generate(self, request_id: str, **request: Any) -> TokenOutput:
        while True:
            try:
                return await super().generate(request_id, **request)
            except (RayActorError, RayTaskError) as error:
                if not is_loss(error):
                    raise
            await asyncio.sleep(RETRY_SECONDS)


class InferenceServers:
    """The replicas of a run, as the trainer sees them."""

    def __init__(self, manager: LLMServerManager) -> None:
        self._manager = manager
        self._looked = 0.0
        self.deaths = 0
        """Servers started again so far."""

    def replace_dead(self, *, now: bool = False) -> bool:
        """Start dead servers again, which takes as long as the first start; return whether there were any.

        They have no weights yet. Looks every PING_SECONDS, or `now`.
        """
        if not now and time.monotonic() - self._looked < PING_SECONDS:
            return False
        self._looked = time.monotonic()
        dead = [place for place, replica in enumerate(self._manager.get_replicas()) if _is_dead(replica)]
        for place in dead:
            self.deaths += 1
            logger.error("inference server %d has died and is started again; its log says why", place)
            self._replace(place)
        return bool(dead)

    def give_weights(self, sync: Callable[[], None]) -> None:
        """Call `sync`, verl's way to give the servers their weights.

        Raises RuntimeError when one dies meanwhile: verl's sender then waits for ever (bucketed_weight_transfer.py).
        """
        done: Future[None] = Future()
        threading.Thread(target=lambda: _settle(done, sync), name="weights", daemon=True).start()
        while not wait([done], PING_SECONDS).done:
            if any(map(_is_dead, self._manager.get_replicas())):
                raise RuntimeError(
                    "an inference server died while it was given its weights; the same command goes on from the last "
                    "checkpoint"
                )
        done.result()

    def _replace(self, place: int) -> None:
        manager = self._manager
        replica, balancer = manager.rollout_replicas[place], manager.global_load_balancer
        ray.get(balancer.remove_servers.remote([manager.server_addresses[place]]))
        for server in replica.servers:  # a living one may be left, with a dead engine or without its other nodes
            ray.kill(server)
            _wait_for_death(server)  # the new one has its name
        replica.servers = []
        _launch(replica)
        manager.server_handles[place] = replica.server_handle
        manager.server_addresses[place] = replica.server_address

    def admit(self) -> None:
        """Let requests reach every server, once the new ones have their weights."""
        manager = self._manager
        servers = dict(zip(manager.server_addresses, manager.server_handles, strict=True))
        balancer = manager.global_load_balancer
        known = set(ray.get(balancer.get_all_servers.remote()))
        ray.get(balancer.add_servers.remote({key: handle for key, handle in servers.items() if key not in known}))


def _is_dead(replica: RolloutReplica) -> bool:
    pings = [server.__ray_call__.remote(_has_dead_engine) for server in replica.servers]
    answered, _ = ray.wait(pings, num_returns=len(pings), timeout=ANSWER_SECONDS)
    try:
        return any(ray.get(answered))
    except RayActorError:
        return True


def _settle(done: Future[None], work: Callable[[], None]) -> None:
    try:
        work()
    except BaseException as error:
        done.set_exception(error)
    else:
        done.set_result(None)


def _wait_for_death(server: Any) -> None:
    with suppress(RayActorError):
        while True:
            ray.get(server.__ray_call__.remote(_has_dead_engine))


def _has_dead_engine(server: Any) -> bool:
    """Called inside a server: whether vLLM's engine, a process of its own, has died."""
    return bool(getattr(getattr(server, "engine", None), "errored", False))


@auto_await  # type: ignore[untyped-decorator]
async def _launch(replica: RolloutReplica) -> None:
    await replica.launch_servers()
