"""Agent loops that play one plain attempt: GRPO's rollout, everyone's validation, and ACE's rollout."""

from __future__ import annotations

import logging
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register

from leafe_verl.core import ExplorationTree, Outcome
from leafe_verl.core.playbook import Delta, look_back
from leafe_verl.core.sft_examples import sequences_of
from leafe_verl.core.statistics import count
from leafe_verl.plugin.rollout.dataset import read_task
from leafe_verl.plugin.rollout.server_policy import ServerPolicy
from leafe_verl.plugin.rollout.task_loop import TaskLoop, describe_row
from leafe_verl.plugin.wire import TreeRecord

logger = logging.getLogger(__name__)

EPISODE = "episode"
ADAPT = "adapt"


@register(EPISODE)
class EpisodeLoop(TaskLoop):
    """Plays one plain attempt, without reflection, rollback or experience."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> list[AgentLoopOutput]:
        """Return one output, or none for an unscored attempt: a broken environment is not a zero reward.

        With `leafe.context.window` an attempt gives one output for each prompt that begins anew. verl gives all of
        them the reward of the last. It computes an advantage for the last within its GRPO group and hands that to the
        others (v1/utils.py, compute_advantage_for_multi_trajectories), so that every attempt has the same weight in
        its group's mean.
        """
        task = read_task(kwargs["extra_info"])
        explorer, policy = self.explorer(task, sampling_params, describe_row(kwargs))
        tree = ExplorationTree(task)
        tree.add(await explorer.attempt(task))
        self.finished(tree, [])
        (attempt,) = tree.attempts
        if not attempt.outcome.scored:
            logger.warning("task %r: unscored attempt, %s: %s", task.key, attempt.outcome.value, attempt.error)
            return []
        *earlier, last = [sequence for _, sequence in sequences_of(attempt.steps)]
        info = {"acc": float(attempt.outcome is Outcome.SUCCESS), "steps": float(len(attempt.steps))}
        played = (policy, tree.return_of(0), 2 * len(attempt.steps), info)
        record = TreeRecord(count(tree, []), delta=await self.learned(tree, policy))
        outputs = [self.output(sequence, *played) for sequence in earlier]
        return [*outputs, self.output(last, *played, record.to_extra_fields())]

    async def learned(self, tree: ExplorationTree, policy: ServerPolicy) -> Delta | None:
        """Return what the policy learned from the finished attempt; None where a method learns nothing here."""
        return None


@register(ADAPT)
class AdaptLoop(EpisodeLoop):
    """ACE's rollout: one plain attempt with the playbook in its prompt, then a look back at it."""

    async def learned(self, tree: ExplorationTree, policy: ServerPolicy) -> Delta | None:
        return await look_back(policy, tree, self.playbook(), self.settings.playbook)
