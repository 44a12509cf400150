"""verl's replay buffer with a progress bar. It polls as soon as a task has ended instead of every two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from tqdm import tqdm
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from leafe_verl.plugin.rollout.required_actors import RequiredActor

POLL_SECONDS = 1.0
"""Longest time between two polls, so that dead workers are noticed and progress is shown even if no task ends."""
NOTHING_COLLECTED = "no materializable trajectories"
"""Part of verl's message for a training batch without any result (verl/trainer/ppo/v1/replay_buffer.py)."""


def _no_result_error(batch_size: int, what: str) -> RuntimeError:
    return RuntimeError(
        f"none of {batch_size} tasks gave a scored attempt while {what}; the log of the rollout workers says why, "
        "task by task"
    )


class ProgressReplayBuffer(ReplayBuffer):  # type: ignore[misc]  # verl is Any to mypy
    """Shows how many of a batch's tasks have been collected. Chosen by `trainer.v1.sampler.custom_sampler`.

    `sample` raises RuntimeError for a batch without any result, on which verl would fail later with another message.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.poll_interval = 0.0  # verl's sleep after each poll, which `wait` replaces
        self.wait: Callable[[float], None] = time.sleep
        """Called between two polls, with the longest time in seconds that it may take."""
        self.on_poll: Callable[[str, int, set[str]], None] | None = None
        """Called at each poll with the partition, the number of its tasks that have ended and the other tasks' uids."""
        self.sampled = 0
        """Number of tasks in the batches that were sampled since somebody set it to 0."""
        self._bar: tqdm | None = None
        self._controller: RequiredActor | None = None

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        """See `ReplayBuffer.sample`."""
        partition_id, batch_size = kwargs["partition_id"], kwargs["batch_size"]
        what = "collecting" if partition_id == "train" else "validating"
        with tqdm(total=batch_size, desc=what, unit="task", mininterval=5.0) as self._bar:
            try:
                sampled = super().sample(*args, **kwargs)
            except RuntimeError as error:
                if NOTHING_COLLECTED in str(error):
                    raise _no_result_error(batch_size, what) from error
                raise
            self._bar.update(batch_size - self._bar.n)
        self.sampled += batch_size
        if not sampled[0].keys:
            raise _no_result_error(batch_size, what)
        return sampled

    def _sync_metadata_from_transfer_queue(self) -> None:
        """Ask TransferQueue what has ended. Its client waits for ever for a controller that has died."""
        if self._controller is None:
            controller = ray.get_actor("TransferQueueController", namespace="transfer_queue")
            self._controller = RequiredActor("TransferQueue's controller", controller)
        self._controller.while_it_lives(super()._sync_metadata_from_transfer_queue)

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        done = len(self.finished_keys[partition_id]) + len(self.failure_keys[partition_id])
        if self.on_poll is not None:
            self.on_poll(partition_id, done, self.pending_keys[partition_id] | self.running_keys[partition_id])
        if self._bar is not None and (more := min(done, self._bar.total) - self._bar.n) > 0:
            self._bar.update(more)
        self.wait(POLL_SECONDS)
        debug_time: float = super()._wait_for_next_poll(partition_id, last_debug_time)
        return debug_time
