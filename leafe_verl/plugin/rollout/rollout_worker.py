"""Our rollout worker, which chooses the agent loop of each task, and the manager that replaces workers that die."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import psutil
import ray
import transfer_queue as tq
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tensordict import TensorDict
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.tensordict_utils import get_non_tensor_data, index_select_tensor_dict

from leafe_verl.core.statistics import total
from leafe_verl.environments.simulator import processes_lost
from leafe_verl.plugin.rollout.dataset import read_task
from leafe_verl.plugin.rollout.evaluation import validation_loop
from leafe_verl.plugin.rollout.explore_loops import EXPLORE, STORED
from leafe_verl.plugin.rollout.task_loop import warn_once_about_model_types
from leafe_verl.plugin.rollout.worker_state import WorkerState
from leafe_verl.sandbox import sandboxes_lost

logger = logging.getLogger(__name__)

# AgentLoopWorkerTQ is a Ray actor class, which cannot be subclassed. The class that it was made from can be.
_WorkerTQ = AgentLoopWorkerTQ.__ray_metadata__.modified_class

PING_SECONDS = 5.0
"""Seconds between two checks for dead workers."""
STUCK_SECONDS = 600.0
"""A worker that gives no answer for this long, including the time it takes to start, counts as dead."""
MAX_DEATHS_PER_TASK = 2
"""A task is given up once this many workers have died while they played it and before they had finished any, since it
may be what kills them."""


@dataclass(frozen=True)
class ProcessUsage:
    """What a worker's process uses, where it runs, and how many environment processes it has lost."""

    memory: float
    """Resident memory, in MiB."""
    descriptors: float
    """Open file descriptors as a share, 0 to 1, of the process's limit."""
    losses: dict[str, int]
    """Number of environment and sandbox processes that died and were replaced, by kind."""
    node: str | None = None
    """Ray's id of the node that it runs on; None outside of Ray."""

    def leaks(self, memory: float) -> bool:
        """Return whether the process uses more than `memory` MiB, or more than half of its descriptors."""
        return self.memory > memory or self.descriptors > 0.5


def measure_usage() -> ProcessUsage:
    """Measure this process."""
    process = psutil.Process()
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    losses = {"environment_processes_lost": processes_lost(), "sandboxes_lost": sandboxes_lost()}
    return ProcessUsage(process.memory_info().rss / 2**20, process.num_fds() / allowed, losses)


class RolloutWorker(_WorkerTQ):  # type: ignore[misc, valid-type]
    """verl's worker. It plays `rollout.agent.default_agent_loop` in training, `leafe.evaluation.loop` in validation."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._task_ended = asyncio.Event()
        self._state = WorkerState()
        self.llm_client.worker_state = self._state  # verl passes the client to each loop
        warn_once_about_model_types()

    async def _run_prompt(
        self, prompt: dict[str, Any], sampling_params: dict[str, Any], trajectory: dict[str, Any], trace: bool = False
    ) -> None:
        if trajectory["validate"]:
            prompt["agent_name"] = validation_loop(self.config.leafe.evaluation)
            self._state.validated.add(prompt["uid"])
            attempts = self.config.actor_rollout_ref.rollout.val_kwargs.n
            self._state.sessions[prompt["uid"]] = prompt.get("__rollout_n__", attempts)
        elif prompt["agent_name"] in (EXPLORE, STORED):
            prompt["__rollout_n__"] = 1  # one tree for each task, with rollout.n roots
        await super()._run_prompt(prompt, sampling_params, trajectory, trace)
        self._state.keep_row(prompt["uid"])  # of a row with an attempt that an error has ended
        self._state.sessions.pop(prompt["uid"], None)
        self._state.validated.discard(prompt["uid"])
        self._task_ended.set()

    async def next_end(self) -> None:
        """Return once a task has ended, or immediately if one has ended since the last call returned."""
        await self._task_ended.wait()
        self._task_ended.clear()

    async def ping(self) -> None:
        """Do nothing. An answer shows that the process is alive."""

    async def usage(self) -> ProcessUsage:
        """Return what this process uses and has lost, and where it runs."""
        return replace(measure_usage(), node=ray.get_runtime_context().get_node_id())

    async def take_unscored(self) -> dict[str, int]:
        """Return the counts of the unscored attempts since the last call, which have no row that could carry them."""
        taken, self._state.unscored = self._state.unscored, Counter()
        return dict(taken)

    async def stop_exploring(self, step: int) -> None:
        """Cut short the trees of a training step that no longer waits for them."""
        self._state.stop_signal(step).set()


class RolloutManager(AgentLoopManagerTQ):  # type: ignore[misc]  # verl is Any to mypy
    """verl's manager with our worker. One that dies or hangs is replaced, and its unfinished tasks are played again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(RolloutWorker)
        self.faults: Counter[str] = Counter(rollout_worker_deaths=0, rollout_worker_leaks=0)
        """Number of workers replaced so far because they died, and because they leaked."""
        self._losses: dict[int, dict[str, int]] = {}
        """Losses reported by each present worker, by the worker's number."""
        self._past_losses: Counter[str] = Counter()
        """Losses reported by workers that have been replaced."""
        self._sent: dict[int, list[TensorDict]] = {}
        """Tasks sent to each worker in this step, by the worker's number."""
        self._deaths_by_task: Counter[str] = Counter()
        self.task_names: dict[str, str] = {}
        """Name of each task that was sent for validation, by the uid that verl gave it for this time: its place in the
        validation set, and its key, which other files may have, too."""
        self._nodes: dict[int, str] = {}
        """Ray's id of the node of each worker that has answered, by the worker's number."""
        self._pings: dict[int, tuple[ray.ObjectRef[None], float]] = {}
        """A ping that waits for its answer, and the time when it was sent, by the worker's number."""
        self._task_ends: dict[int, ray.ObjectRef[None]] = {}
        self._checked_at = 0.0
        self._stopped: int | None = None
        """The training step whose trees were cut short, until the next tasks are sent."""

    def generate_sequences(self, prompts: TensorDict) -> None:
        """Send each worker its share of the tasks, and remember which. Returns before they are played."""
        self._sent, self._stopped = {}, None
        self._replace_leaking()
        if get_non_tensor_data(prompts, "validate", False):
            rows = zip(prompts["uid"], prompts["extra_info"], strict=True)
            self.task_names.update({str(uid): f"{each['index']} {read_task(each).key}" for uid, each in rows})
        for worker, share in enumerate(prompts.chunk(len(self.agent_loop_workers))):
            self._send(worker, share)

    def wait_for_end(self, seconds: float) -> None:
        """Return as soon as a task has ended, or after `seconds` if none has."""
        for number, worker in enumerate(self.agent_loop_workers):
            if number not in self._task_ends:
                self._task_ends[number] = worker.next_end.remote()
        answered, _ = ray.wait([*self._task_ends.values()], timeout=seconds)
        self._task_ends = {number: end for number, end in self._task_ends.items() if end not in answered}
        try:
            ray.get(answered)
        except RayActorError:  # until it is replaced, every call to a dead worker fails at once
            time.sleep(seconds)

    def stop_exploring(self, step: int) -> None:
        """Tell all workers to cut short the trees of a training step."""
        self._stopped = step
        for worker in self.agent_loop_workers:
            worker.stop_exploring.remote(step)

    def losses(self) -> dict[str, int]:
        """Return how many environment processes were lost so far, without those that a dying worker did not report."""
        for worker in range(len(self.agent_loop_workers)):
            self._ask(worker)
        return total([self._past_losses, *self._losses.values()])

    def take_unscored(self) -> dict[str, int]:
        """Return the counts of unscored attempts since the last call, without those of workers that died meanwhile."""
        taken = []
        for worker in self.agent_loop_workers:
            with suppress(RayActorError, GetTimeoutError):
                taken.append(ray.get(worker.take_unscored.remote(), timeout=STUCK_SECONDS))
        return total(taken)

    def replace_dead(self, unfinished: set[str], partition_id: str) -> None:
        """Replace workers that are dead or hang, and play their unfinished tasks again.

        Args:
            unfinished: The uids of the tasks that training or validation still waits for.
            partition_id: TransferQueue's partition of these tasks, `train` or `val`.
        """
        if time.monotonic() - self._checked_at < PING_SECONDS:
            return
        self._checked_at = time.monotonic()
        for worker in range(len(self.agent_loop_workers)):
            if self._is_dead(worker):
                self._note_death(worker)
                lost = self._sent.pop(worker, [])
                self._replace(worker)
                # One that has finished tasks, as where an environment leaks, will finish more when it is replaced.
                progressed = any(str(uid) not in unfinished for share in lost for uid in share["uid"])
                for share in lost:
                    self._play_again(worker, share, unfinished, partition_id, blamed=not progressed)

    def _send(self, worker: int, share: TensorDict) -> None:
        self._sent.setdefault(worker, []).append(share)
        try:
            ray.get(self.agent_loop_workers[worker].generate_sequences.remote(share), timeout=STUCK_SECONDS)
        except (RayActorError, GetTimeoutError):  # it died between two steps, so no task is to blame
            self._note_death(worker)
            self._replace(worker)
            # Where no worker can be started at all, as without its node, nothing else would end the wait.
            ray.get(self.agent_loop_workers[worker].generate_sequences.remote(share), timeout=STUCK_SECONDS)

    def _is_dead(self, worker: int) -> bool:
        if worker not in self._pings:
            self._pings[worker] = (self.agent_loop_workers[worker].ping.remote(), time.monotonic())
            return False
        ping, sent_at = self._pings[worker]
        answered, _ = ray.wait([ping], timeout=0)
        if not answered:  # it is busy or hangs, or Ray has not noticed its death yet
            return self._is_stuck(worker, time.monotonic() - sent_at)
        del self._pings[worker]
        try:
            ray.get(ping)
        except RayActorError:
            return True
        return False

    def _is_stuck(self, worker: int, seconds: float) -> bool:
        """Return whether a worker that has not answered for so long counts as dead. Nothing else would end the wait."""
        if seconds <= STUCK_SECONDS:
            return False
        logger.error("rollout worker %d has given no answer for %.0f s and counts as dead", worker, seconds)
        return True

    def _replace_leaking(self) -> None:
        limit = self.config.leafe.collection.worker_memory
        for worker in range(len(self.agent_loop_workers)):
            usage = self._ask(worker)
            if usage is None:
                self._note_death(worker)
            elif usage.leaks(limit):
                self.faults["rollout_worker_leaks"] += 1
                logger.error(
                    "rollout worker %d uses %.0f MiB and %.0f %% of its file descriptors and is replaced, because an "
                    "environment leaks; leafe.collection.worker_memory allows %d MiB",
                    worker,
                    usage.memory,
                    100 * usage.descriptors,
                    limit,
                )
            else:
                continue
            self._replace(worker)

    def _ask(self, worker: int) -> ProcessUsage | None:
        """Return what a worker uses, and note its losses; None if it is dead or does not answer."""
        try:
            usage: ProcessUsage = ray.get(self.agent_loop_workers[worker].usage.remote(), timeout=STUCK_SECONDS)
        except (RayActorError, GetTimeoutError):
            return None
        self._losses[worker] = usage.losses
        if usage.node:
            self._nodes[worker] = usage.node
        return usage

    def _note_death(self, worker: int) -> None:
        self.faults["rollout_worker_deaths"] += 1
        logger.error("rollout worker %d died and is replaced; its log says why it died", worker)

    def _replace(self, worker: int) -> None:
        """Start another worker in the place of one, on the same node if that is still there."""
        ray.kill(self.agent_loop_workers[worker])  # it may only hang, and would play on beside the new one
        self._pings.pop(worker, None)
        self._past_losses.update(self._losses.pop(worker, {}))
        self._task_ends.pop(worker, None)
        # verl spreads workers over the nodes, which Ray's default does not.
        node = self._nodes.get(worker)
        self.agent_loop_workers[worker] = self.agent_loop_workers_class.options(
            name=f"agent_loop_worker_{worker}_{uuid4().hex[:8]}",
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True) if node else "DEFAULT",
        ).remote(self.config, self.llm_client, self.teacher_client, self.reward_loop_worker_handles)
        if self._stopped is not None:
            self.agent_loop_workers[worker].stop_exploring.remote(self._stopped)

    def _play_again(
        self, worker: int, share: TensorDict, unfinished: set[str], partition_id: str, *, blamed: bool
    ) -> None:
        """Play the unfinished tasks of a dead worker again. `blamed`: what it died of may be any of them."""
        uids = [str(uid) for uid in share["uid"]]
        lost = [uid for uid in uids if uid in unfinished]
        if blamed:
            self._deaths_by_task.update(lost)
        given_up = [uid for uid in lost if self._deaths_by_task[uid] >= MAX_DEATHS_PER_TASK]
        for uid in given_up:
            logger.error("a task is given up: %d rollout workers died while they played it", MAX_DEATHS_PER_TASK)
            tq.kv_put(key=uid, partition_id=partition_id, tag={"status": "failure"})
        rows = [row for row, uid in enumerate(uids) if uid in lost and uid not in given_up]
        if rows:
            self._forget_attempts({uids[row] for row in rows}, partition_id)
            self._send(worker, index_select_tensor_dict(share, rows))

    def _forget_attempts(self, uids: set[str], partition_id: str) -> None:
        """Remove what the dead worker stored of tasks that are played again, which may have more rows than the new."""
        stored = (tq.kv_list(partition_id) or {}).get(partition_id, {})
        if keys := [key for key in stored if key not in uids and key.split("_", 1)[0] in uids]:
            tq.kv_clear(keys=keys, partition_id=partition_id)
