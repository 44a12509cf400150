"""The custom rollout worker: explores for training, plays plain episodes for GRPO and, by default, for validation."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psutil
import ray
import transfer_queue as tq
from ray.exceptions import GetTimeoutError, RayActorError
from tensordict import TensorDict
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.tensordict_utils import index_select_tensor_dict

from leafe_verl.core.statistics import total
from leafe_verl.environments.simulator import processes_lost
from leafe_verl.plugin.rollout.evaluation import validation_loop
from leafe_verl.plugin.rollout.explore_loops import EXPLORE, REPLAY
from leafe_verl.plugin.rollout.task_loop import warn_once_of_model_types
from leafe_verl.plugin.rollout.worker_state import WorkerState
from leafe_verl.sandbox import sandboxes_lost

logger = logging.getLogger(__name__)

# AgentLoopWorkerTQ is a Ray actor class, which cannot be subclassed; the class it was made from can.
_WorkerTQ = AgentLoopWorkerTQ.__ray_metadata__.modified_class

PING_SECONDS = 5.0
STUCK_SECONDS = 600.0
"""After this long without an answer, its start included, a worker is taken for dead."""
DEATHS_OF_A_TASK = 2
"""Workers that may die while they play a task; then it is given up, since it may well be what kills them."""


@dataclass(frozen=True)
class Holdings:
    """What a worker's process holds, and what its environments have lost."""

    memory: float
    """Resident, in MiB."""
    descriptors: float
    """Share of what the system allows the process."""
    losses: dict[str, int]
    """Processes of environments and sandboxes that died and were replaced."""

    def leaks(self, memory: float) -> bool:
        return self.memory > memory or self.descriptors > 0.5


def holdings() -> Holdings:
    """Return those of this process."""
    process = psutil.Process()
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    losses = {"environment_processes_lost": processes_lost(), "sandboxes_lost": sandboxes_lost()}
    return Holdings(process.memory_info().rss / 2**20, process.num_fds() / allowed, losses)


class RolloutWorker(_WorkerTQ):  # type: ignore[misc, valid-type]
    """Chooses the loop: `rollout.agent.default_agent_loop` in training, `leafe.evaluation.loop` in validation."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ended = asyncio.Event()
        self._state = WorkerState()
        self.llm_client.worker_state = self._state  # verl hands the client to each loop
        warn_once_of_model_types()

    async def _run_prompt(
        self, prompt: dict[str, Any], sampling_params: dict[str, Any], trajectory: dict[str, Any], trace: bool = False
    ) -> None:
        if trajectory["validate"]:
            prompt["agent_name"] = validation_loop(self.config.leafe.evaluation)
        elif prompt["agent_name"] in (EXPLORE, REPLAY):
            prompt["__rollout_n__"] = 1  # one tree a task; its number of roots is rollout.n
        await super()._run_prompt(prompt, sampling_params, trajectory, trace)
        self._ended.set()

    async def next_end(self) -> None:
        """Answer as soon as a task has ended since the last answer."""
        await self._ended.wait()
        self._ended.clear()

    async def ping(self) -> None:
        """Answer: the process lives."""

    async def holdings(self) -> Holdings:
        return holdings()

    async def stop_exploring(self, step: int) -> None:
        """Cut short the trees of a training step that waits for them no longer."""
        self._state.stop_signal(step).set()


class RolloutManager(AgentLoopManagerTQ):  # type: ignore[misc]  # verl is Any to mypy
    """verl's manager, with our worker; one that dies is replaced, and plays again what it had not finished."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(RolloutWorker)
        self.faults: Counter[str] = Counter(rollout_worker_deaths=0, rollout_worker_leaks=0)
        """Workers replaced so far because they died, and because they leaked."""
        self._losses: dict[int, dict[str, int]] = {}
        self._past_losses: Counter[str] = Counter()
        self._sent: dict[int, list[TensorDict]] = {}
        self._deaths_of: Counter[str] = Counter()
        self._pings: dict[int, ray.ObjectRef[None]] = {}
        self._ends: dict[int, ray.ObjectRef[None]] = {}
        self._looked = 0.0

    def generate_sequences(self, prompts: TensorDict) -> None:
        """Hand each worker its share of the tasks, and remember which; returns before they are played."""
        self._sent = {}
        self._replace_leaking()
        for worker, share in enumerate(prompts.chunk(len(self.agent_loop_workers))):
            self._send(worker, share)

    def wait_for_end(self, seconds: float) -> None:
        """Return as soon as a task has ended, and after so many seconds at the latest."""
        for number, worker in enumerate(self.agent_loop_workers):
            if number not in self._ends:
                self._ends[number] = worker.next_end.remote()
        answered, _ = ray.wait([*self._ends.values()], timeout=seconds)
        self._ends = {number: end for number, end in self._ends.items() if end not in answered}
        try:
            ray.get(answered)
        except RayActorError:  # a dead worker answers at once, again and again until it is replaced
            time.sleep(seconds)

    def stop_exploring(self, step: int) -> None:
        for worker in self.agent_loop_workers:
            worker.stop_exploring.remote(step)

    def losses(self) -> dict[str, int]:
        """Return what the workers' environments have lost so far, as far as the workers lived to tell."""
        for worker in range(len(self.agent_loop_workers)):
            self._ask(worker)
        return total([self._past_losses, *self._losses.values()])

    def replace_dead(self, unfinished: set[str], partition_id: str) -> None:
        """Replace the workers that have died; `unfinished` are the uids that training or validation still waits for."""
        if time.monotonic() - self._looked < PING_SECONDS:
            return
        self._looked = time.monotonic()
        for worker in range(len(self.agent_loop_workers)):
            if self._is_dead(worker):
                self._note_death(worker)
                lost = self._sent.pop(worker, [])
                self._replace(worker)
                for share in lost:
                    self._play_again(worker, share, unfinished, partition_id)

    def _send(self, worker: int, share: TensorDict) -> None:
        self._sent.setdefault(worker, []).append(share)
        try:
            ray.get(self.agent_loop_workers[worker].generate_sequences.remote(share))
        except RayActorError:  # it died between two steps: no task is to blame
            self._note_death(worker)
            self._replace(worker)
            ray.get(self.agent_loop_workers[worker].generate_sequences.remote(share))

    def _is_dead(self, worker: int) -> bool:
        ping = self._pings.get(worker)
        if ping is None:
            self._pings[worker] = self.agent_loop_workers[worker].ping.remote()
            return False
        answered, _ = ray.wait([ping], timeout=0)
        if not answered:  # busy, or about to be known as dead
            return False
        del self._pings[worker]
        try:
            ray.get(ping)
        except RayActorError:
            return True
        return False

    def _replace_leaking(self) -> None:
        most = self.config.leafe.collection.worker_memory
        for worker, handle in enumerate(self.agent_loop_workers):
            held = self._ask(worker)
            if held is None:
                self._note_death(worker)
            elif held.leaks(most):
                self.faults["rollout_worker_leaks"] += 1
                logger.error(
                    "rollout worker %d holds %.0f MiB and %.0f %% of its descriptors, and is replaced: an environment "
                    "leaks; leafe.collection.worker_memory is %d", worker, held.memory, 100 * held.descriptors, most
                )  # fmt: skip
            else:
                continue
            ray.kill(handle)
            self._replace(worker)

    def _ask(self, worker: int) -> Holdings | None:
        """Return what a worker holds; None when it is dead, or does not answer."""
        try:
            held: Holdings = ray.get(self.agent_loop_workers[worker].holdings.remote(), timeout=STUCK_SECONDS)
        except (RayActorError, GetTimeoutError):
            return None
        self._losses[worker] = held.losses
        return held

    def _note_death(self, worker: int) -> None:
        self.faults["rollout_worker_deaths"] += 1
        logger.error("rollout worker %d has died and is replaced; its log says why", worker)

    def _replace(self, worker: int) -> None:
        self._pings.pop(worker, None)
        self._past_losses.update(self._losses.pop(worker, {}))
        self._ends.pop(worker, None)
        self.agent_loop_workers[worker] = self.agent_loop_workers_class.options(
            name=f"agent_loop_worker_{worker}_{uuid4().hex[:8]}"
        ).remote(self.config, self.llm_client, self.teacher_client, self.reward_loop_worker_handles)

    def _play_again(self, worker: int, share: TensorDict, unfinished: set[str], partition_id: str) -> None:
        uids = [str(uid) for uid in share["uid"]]
        lost = [uid for uid in uids if uid in unfinished]
        self._deaths_of.update(lost)
        given_up = [uid for uid in lost if self._deaths_of[uid] >= DEATHS_OF_A_TASK]
        for uid in given_up:
            logger.error("a task is given up: %d rollout workers died while they played it", DEATHS_OF_A_TASK)
            tq.kv_put(key=uid, partition_id=partition_id, tag={"status": "failure"})
        rows = [row for row, uid in enumerate(uids) if uid in lost and uid not in given_up]
        if rows:
            self._send(worker, index_select_tensor_dict(share, rows))
