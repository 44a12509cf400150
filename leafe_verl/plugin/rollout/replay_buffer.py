"""verl's replay buffer with a progress bar, which looks when a task has ended rather than every two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

POLL_SECONDS = 1.0
"""Between two looks at most, so that dead workers are noticed and the progress is shown."""
NOTHING_COLLECTED = "no materializable trajectories"
"""What verl/trainer/ppo/v1/replay_buffer.py says of a training batch without any result."""


def _nothing_collected(batch_size: int, what: str) -> RuntimeError:
    return RuntimeError(
        f"none of {batch_size} tasks gave a scored attempt while {what}: the rollout workers' log says why, "
        "task by task"
    )


class ProgressReplayBuffer(ReplayBuffer):  # type: ignore[misc]  # verl is Any to mypy
    """Shows how many of a batch's tasks have been collected. Chosen by `trainer.v1.sampler.custom_sampler`.

    `sample` raises RuntimeError for a batch without any result, which verl would stumble over later on.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.poll_interval = 0.0  # what verl sleeps after a look; `wait` takes its place
        self.wait: Callable[[float], None] = time.sleep
        """Called with the most seconds that it may take between two looks."""
        self.on_poll: Callable[[str, int, set[str]], None] | None = None
        """Called with the partition, the number of its tasks that have ended and the uids of those that have not."""
        self._bar: tqdm | None = None

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        partition_id, batch_size = kwargs["partition_id"], kwargs["batch_size"]
        what = "collecting" if partition_id == "train" else "validating"
        with tqdm(total=batch_size, desc=what, unit="task", mininterval=5.0) as self._bar:
            try:
                sampled = super().sample(*args, **kwargs)
            except RuntimeError as error:
                if NOTHING_COLLECTED in str(error):
                    raise _nothing_collected(batch_size, what) from error
                raise
            self._bar.update(batch_size - self._bar.n)
        if not sampled[0].keys:
            raise _nothing_collected(batch_size, what)
        return sampled

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        done = len(self.finished_keys[partition_id]) + len(self.failure_keys[partition_id])
        if self.on_poll is not None:
            self.on_poll(partition_id, done, self.pending_keys[partition_id] | self.running_keys[partition_id])
        if self._bar is not None and (more := min(done, self._bar.total) - self._bar.n) > 0:
            self._bar.update(more)
        self.wait(POLL_SECONDS)
        debug_time: float = super()._wait_for_next_poll(partition_id, last_debug_time)
        return debug_time
