"""Restarts inference servers that die, and sends the requests that they did not answer to another server.

verl's load balancer keeps handing out a dead server, and verl cannot restart a replica. Here dead servers are restarted
with the current weights. A failed request is sent again, which is safe because a request has no effect besides its
answer, so a server's death costs only time.
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

from leafe_verl.plugin.rollout.required_actors import RequiredActor, settle
from leafe_verl.plugin.rollout.worker_state import WorkerState

logger = logging.getLogger(__name__)

PING_SECONDS = 5.0
"""Seconds between two checks for dead servers."""
ANSWER_SECONDS = 2.0
"""Seconds to wait for the answer to a ping. A server that has not answered by then is busy and counts as alive."""
RETRY_SECONDS = 1.0
"""Seconds before a request that lost its server is sent again."""
WEIGHTS_SECONDS = 3600.0
"""Seconds that sending the weights may take. A large model takes minutes."""
BALANCER = "verl's load balancer"
NO_SERVERS = "No available servers in load balancer"
"""The message of verl/workers/rollout/router.py when all servers have been removed."""


def is_server_loss(error: Exception) -> bool:
    """Return whether a request failed because its server or engine died, or because no server is available now."""
    if isinstance(error, RayActorError):
        return True
    return isinstance(error, RayTaskError) and ("EngineDeadError" in str(error) or NO_SERVERS in str(error))


class RetryingClient(LLMServerClient):  # type: ignore[misc]  # verl is Any to mypy
    """verl's client, which sends a request again if its server is lost. The caller must set a time limit."""

    worker_state: WorkerState
    """State that all loops of a rollout worker share. Set by the rollout worker; the trainer's client has none."""

    async def generate(self, request_id: str, **request: Any) -> TokenOutput:
        """See `LLMServerClient.generate`. Errors other than the loss of a server are raised."""
        while True:
            try:
                return await super().generate(request_id, **request)
            except (RayActorError, RayTaskError) as error:
                if not is_server_loss(error):
                    raise
            await asyncio.sleep(RETRY_SECONDS)


class InferenceServers:
    """Watches and restarts the replicas of a run, from the trainer's process."""

    def __init__(self, manager: LLMServerManager, make_room: Callable[[], None]) -> None:
        """`make_room` lets the trainer give back memory that it holds for nothing, before a server is restarted."""
        self._manager, self._make_room = manager, make_room
        self._balancer: RequiredActor | None = None
        self._checked_at = 0.0
        self.deaths = 0
        """Number of servers that died and were restarted so far."""

    def restart_dead(self, *, now: bool = False) -> bool:
        """Restart dead servers, which takes as long as their first start, and return whether there were any.

        A restarted server has no weights yet: call `give_weights`, then `admit`. Servers are checked at most once in
        PING_SECONDS, unless `now` is set. Raises RuntimeError if the load balancer has died.
        """
        replicas = self._manager.get_replicas()
        if replicas:
            self._balancer = self._balancer or RequiredActor(BALANCER, self._manager.global_load_balancer)
            self._balancer.require()
        if not now and time.monotonic() - self._checked_at < PING_SECONDS:
            return False
        self._checked_at = time.monotonic()
        dead = [place for place, replica in enumerate(replicas) if _is_dead(replica)]
        if dead:
            self._make_room()
        for place in dead:
            self.deaths += 1
            logger.error("inference server %d died and is being restarted; its log says why it died", place)
            self._restart(place)
        return bool(dead)

    def give_weights(self, sync: Callable[[], None]) -> None:
        """Call `sync`, the function of verl that sends the weights to the servers.

        Raises RuntimeError if a server dies meanwhile, or does not take them within WEIGHTS_SECONDS: verl's sender
        waits for ever for one that died, or that failed to load what it was sent (bucketed_weight_transfer.py).
        """
        begun = time.monotonic()
        done: Future[None] = Future()
        threading.Thread(target=lambda: settle(done, sync), name="weights", daemon=True).start()
        while not wait([done], PING_SECONDS).done:
            if any(map(_is_dead, self._manager.get_replicas())):
                raise RuntimeError(
                    "an inference server died while weights were sent to it; run the same command again to resume from "
                    "the last checkpoint"
                )
            if time.monotonic() - begun > WEIGHTS_SECONDS:
                raise RuntimeError(
                    f"the inference servers have not taken the weights within {WEIGHTS_SECONDS / 60:.0f} minutes; the "
                    "log of the run says what failed there"
                )
        done.result()

    def _restart(self, place: int) -> None:
        manager = self._manager
        replica, balancer = manager.rollout_replicas[place], manager.global_load_balancer
        ray.get(balancer.remove_servers.remote([manager.server_addresses[place]]))
        for server in replica.servers:  # one may still be alive, with a dead engine or without its other nodes
            ray.kill(server)
            _wait_for_death(server)  # the new server takes its name
        replica.servers = []
        _launch(replica)
        manager.server_handles[place] = replica.server_handle
        manager.server_addresses[place] = replica.server_address

    def admit(self) -> None:
        """Add restarted servers to the load balancer, once they have their weights."""
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


def _wait_for_death(server: Any) -> None:
    with suppress(RayActorError):
        while True:
            ray.get(server.__ray_call__.remote(_has_dead_engine))


def _has_dead_engine(server: Any) -> bool:
    """Return, inside a server's process, whether the process of its vLLM engine has died."""
    return bool(getattr(getattr(server, "engine", None), "errored", False))


@auto_await  # type: ignore[untyped-decorator]
async def _launch(replica: RolloutReplica) -> None:
    await replica.launch_servers()
