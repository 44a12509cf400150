"""LEAFE's agent loops: they grow an exploration tree, or read one from the store, and return its SFT examples."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register

from leafe_verl.core import Example, ExplorationTree, Outcome, Task
from leafe_verl.core.matched_volume import Volume
from leafe_verl.core.recovery_figures import plain_attempts
from leafe_verl.core.sft_examples import PHASES, Kind, build_examples
from leafe_verl.core.shared_prefix import sort_by_shared_prefix
from leafe_verl.core.statistics import count
from leafe_verl.core.teacher import with_teachers
from leafe_verl.plugin.precision import find_precision
from leafe_verl.plugin.rollout.collected import CollectedTrees, find_fingerprint
from leafe_verl.plugin.rollout.dataset import read_task
from leafe_verl.plugin.rollout.server_policy import ServerPolicy
from leafe_verl.plugin.rollout.task_loop import TaskLoop, describe_row
from leafe_verl.plugin.sizes import sequence_parallel_size
from leafe_verl.plugin.trackers import tracks_branches
from leafe_verl.plugin.wire import (
    REPLACED_EXAMPLES,
    REPLACED_TOKENS,
    TREES_FROM_STORE,
    TREES_UNKEPT,
    ExampleRecord,
    TreeRecord,
)
from leafe_verl.trees import Provenance
from leafe_verl.trees.telling import telling_branch

logger = logging.getLogger(__name__)

EXPLORE = "explore"
STORED = "stored"


@register(EXPLORE)
class ExploreLoop(TaskLoop):
    """Grows one exploration tree from `rollout.n` roots. This is LEAFE's rollout."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> list[AgentLoopOutput]:
        """Return a row with the tree's summary, then one row for each SFT example.

        If the run was killed and resumed, a tree that the same training step collected before is read from the store.
        """
        task, step = read_task(kwargs["extra_info"]), int(kwargs["global_steps"])
        stop = self.worker.stop_signal(step)
        explorer, policy = self.explorer(task, sampling_params, describe_row(kwargs), stop)
        if found := await asyncio.to_thread(self._find, task, step):
            return self.rows(found, await self.examples(found, policy), None)
        tree = await explorer.explore(task, roots=self.rollout_config.n)
        try:
            await asyncio.to_thread(self._keep, tree, step, policy)  # so that other trees do not wait for the disk
        except OSError as error:
            logger.error("%s", error)
            return [self._summary_row(policy, TreeRecord({TREES_UNKEPT: 1}))]
        return self.rows(tree, await self.examples(tree, policy), policy)

    async def examples(self, tree: ExplorationTree, policy: ServerPolicy) -> list[Example]:
        """Return the SFT examples of a tree. `policy` tokenises the prompts of teachers, and samples nothing."""
        distillation = self.settings.distillation
        mask_id = find_mask_token(self.tokenizer) if distillation.context_mask else None
        examples = build_examples(tree, distillation, self.settings.seed, mask_id)
        return self._that_fit(tree, await with_teachers(policy, tree, examples, self.settings))

    def _that_fit(self, tree: ExplorationTree, examples: list[Example]) -> list[Example]:
        """Leave out the examples, and the teachers, that no micro-batch holds: a stored tree may be of a run with a
        larger window. Of a pair both rows are left out."""
        actor = self.config.actor_rollout_ref.actor
        if not actor.use_dynamic_bsz:
            return examples
        most = actor.ppo_max_token_len_per_gpu * sequence_parallel_size(self.config)
        fits = [len(example.sequence.token_ids) <= most for example in examples]
        for row, example in enumerate(examples):
            if example.rejected:  # the row before it is the preferred one
                fits[row - 1] = fits[row] = fits[row - 1] and fits[row]
        fitting = [_with_fitting_teacher(example, most) for example in itertools.compress(examples, fits)]
        if left_out := len(examples) - len(fitting):
            logger.warning(
                "task %r: %d examples of more than %d tokens are left out; to train on them, raise "
                "actor_rollout_ref.actor.ppo_max_token_len_per_gpu",
                tree.task.key,
                left_out,
                most,
            )
        return fitting

    def rows(
        self, tree: ExplorationTree, examples: list[Example], policy: ServerPolicy | None, number: int = 0
    ) -> list[AgentLoopOutput]:
        """Return the rows of a tree: its summary, then its SFT examples.

        Args:
            policy: The policy that sampled the tree; None if the tree comes from a store.
            number: Number of the tree among the stored trees of its task.
        """
        self.finished(tree, examples)
        return [self._tree_row(tree, examples, policy), *self._example_rows(tree, examples, policy, number)]

    def _tree_row(self, tree: ExplorationTree, examples: list[Example], policy: ServerPolicy | None) -> AgentLoopOutput:
        counts = count(tree, examples) | {TREES_UNKEPT: 0, TREES_FROM_STORE: int(policy is None)}
        if self.settings.distillation.control:
            counts |= self._replaced(tree)
        branch = telling_branch(tree) if tracks_branches(self.config) else None
        success = max((float(attempt.outcome is Outcome.SUCCESS) for attempt in tree.attempts), default=0.0)
        record = TreeRecord(counts, tree.task.key, plain_attempts(tree), branch)
        return self._summary_row(policy, record, success)

    def _replaced(self, tree: ExplorationTree) -> dict[str, int]:
        """Count what LEAFE would train on in place of the control."""
        leafe = self.settings.distillation.model_copy(update={"control": None})
        volume = Volume.of(build_examples(tree, leafe, self.settings.seed))
        return {REPLACED_EXAMPLES: volume.examples, REPLACED_TOKENS: volume.tokens}

    def _summary_row(self, policy: ServerPolicy | None, record: TreeRecord, success: float = 0.0) -> AgentLoopOutput:
        return self.empty_output(policy, success, {"acc": success}, record.to_extra_fields())

    def _example_rows(
        self, tree: ExplorationTree, examples: list[Example], policy: ServerPolicy | None, number: int
    ) -> Iterator[AgentLoopOutput]:
        """Yield one row for each example, phase by phase. Examples of a phase that begin alike are adjacent."""
        for kinds in PHASES.values():
            phase = [example for example in examples if example.kind in kinds]
            for place, (index, shared) in enumerate(_order(phase)):
                example = phase[index]
                where, trained = (tree.task.key, number, place), sum(example.sequence.mask)
                record = ExampleRecord(
                    example.kind, *where, shared, trained, rejected=example.rejected, teacher=example.teacher
                )
                yield self._example_row(tree, example, policy, record)

    def _example_row(
        self, tree: ExplorationTree, example: Example, policy: ServerPolicy | None, record: ExampleRecord
    ) -> AgentLoopOutput:
        success = float(tree.attempts[example.attempt].outcome is Outcome.SUCCESS)
        reward, turns = tree.total_return(example.attempt), 2 * len(tree.path(example.attempt))
        return self.output(example.sequence, policy, reward, turns, {"acc": success}, record.to_extra_fields())

    @property
    def _run_name(self) -> str:
        """Name of the run in its trees. It stays the same when a killed run goes on in its RUN_DIR."""
        return str(self.config.trainer.experiment_name)  # Hydra parses a name such as 12 as a number

    def _store(self) -> CollectedTrees | None:
        store = self.settings.collection.store
        if not store:
            return None
        return self.worker.collected_trees(store, run=self._run_name, tokenizer=find_fingerprint(self.tokenizer))

    def _find(self, task: Task, step: int) -> ExplorationTree | None:
        store = self._store()
        return store.find(step, task.key) if store else None

    def _keep(self, tree: ExplorationTree, step: int, policy: ServerPolicy) -> None:
        """Write the tree to the store, if there is one, before training can use it. Raises OSError."""
        if (store := self._store()) is None:
            return
        provenance = Provenance(
            run=self._run_name,
            step=step,
            seed=self.settings.seed,
            model=self.config.actor_rollout_ref.model.path,
            tokenizer=find_fingerprint(self.tokenizer),
            weight_version_min=min(policy.weight_versions, default=None),
            weight_version_max=max(policy.weight_versions, default=None),
            dtype=find_precision(self.config),
        )
        store.keep(tree, provenance)


def _order(phase: Sequence[Example]) -> Sequence[tuple[int, int]]:
    """Return the indices of a phase's examples in the order of their rows, and the tokens shared with the row before.

    Pairs of DPO stay as they are: the rejected example follows the chosen one, and no prefix is shared.
    """
    if any(example.kind is Kind.PREFERENCE for example in phase):
        return [(index, 0) for index in range(len(phase))]
    return sort_by_shared_prefix([example.sequence.token_ids for example in phase])


@register(STORED)
class StoredTreesLoop(ExploreLoop):
    """Reads the stored trees of a task instead of exploring it, to run stage 2 alone."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> list[AgentLoopOutput]:
        """Return the rows of all stored trees of the task; if the store has none, a row that trains nothing.

        Recovery targets of trees that were collected without any are confirmed now, by replay.
        """
        task, store = read_task(kwargs["extra_info"]), self._store()
        trees = await asyncio.to_thread(store.find_all, task.key) if store else []
        explorer, policy = self.explorer(task, sampling_params, describe_row(kwargs))
        rows = []
        for number, tree in enumerate(trees):
            if tree.recovery_targets is None:
                await explorer.confirm_recovery_targets(tree)
            rows += self.rows(tree, await self.examples(tree, policy), None, number)
        # verl's replay buffer would end a run in which none of a step's tasks gives a row.
        return rows or [self._summary_row(None, TreeRecord({TREES_UNKEPT: 0}))]


def find_mask_token(tokenizer: Any) -> int:
    """Return the token that `leafe.distillation.context_mask` puts into histories.

    It is the mask token, else the padding token, else the unknown token, but never one that the chat template uses:
    some tokenizers pad with the token that ends a turn.
    """
    in_use = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    for name in ("mask_token_id", "pad_token_id", "unk_token_id"):
        token = getattr(tokenizer, name, None)
        if token is not None and token not in in_use:
            return int(token)
    raise ValueError(
        "the tokenizer has no mask, padding or unknown token besides those that begin and end a text; set "
        "leafe.distillation.context_mask=0"
    )


def _with_fitting_teacher(example: Example, most: int) -> Example:
    """Return the example, without its teacher if that reads more than `most` tokens. It is then trained by -log pi."""
    answer = len(example.sequence.token_ids) - example.sequence.prompt_length
    if example.teacher and len(example.teacher.prompt) + answer > most:
        return dataclasses.replace(example, teacher=None)
    return example
