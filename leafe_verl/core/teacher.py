"""The teachers of losses that are `kl`: the policy itself, at the prompt that it sampled an action from.

A counterfactual example, a recovery example, and what their teachers read:

    example   o_1  a_1  o_2      a'_2        the policy learns a'_2 here,
    teacher   o_1  a_1  o_2  e   a'_2        as it would be continued here, token for token

    example   o_1  a_1, failed  o_2  a*      the policy learns a* after a failed turn,
    teacher   o_1  a*                        as it would be continued where it was sampled

Where a* was sampled in a branch, with an experience in the prompt, its teacher reads that, too. A held turn's teacher
reads what the example does: the policy stays as it was.

Trees keep the experience e, but not the prompt that held it, so that the prompt is made again as it was when a'_2 was
sampled. Where the context window had moved, a stored tree no longer knows the sampled tokens apart from the text, and
the teacher reads the text as it is tokenised now.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from leafe_verl.core.context import PromptNote, history_after
from leafe_verl.core.policy import Policy, PolicyFailure, annotate
from leafe_verl.core.reflection import experience_note
from leafe_verl.core.settings import Settings
from leafe_verl.core.sft_examples import Example, Kind, Teacher
from leafe_verl.core.tree import ExplorationTree


async def with_teachers(
    policy: Policy, tree: ExplorationTree, examples: Sequence[Example], settings: Settings
) -> list[Example]:
    """Return the examples, those whose loss is `kl` with their teachers.

    A counterfactual example or a recovery target stays without a teacher, and so is trained by -log pi, where its
    action was sampled from the example's own prompt, since the branch has no experience, and where the prompt with the
    experience cannot be built. `policy` tokenises prompts and samples nothing.
    """
    losses = {
        Kind.COUNTERFACTUAL: settings.distillation.loss,
        Kind.RECOVERY: settings.distillation.recovery_loss,
        Kind.HOLD: settings.distillation.hold_loss,
    }
    return [
        dataclasses.replace(example, teacher=await _teacher(policy, tree, example, settings))
        if losses.get(example.kind) == "kl"
        else example
        for example in examples
    ]


async def _teacher(policy: Policy, tree: ExplorationTree, example: Example, settings: Settings) -> Teacher | None:
    own = example.sequence.token_ids[: example.sequence.prompt_length]
    if example.kind is Kind.HOLD:
        return Teacher(own, sum(example.sequence.mask))
    source = example.attempt if example.source is None else example.source
    place = example.step if example.source is None else len(tree.path(source))
    sampled = sum(tree.path(source)[place - 1].action.mask(added_tokens=False, thoughts=settings.distillation.thoughts))
    try:
        prompt = await _sampling_prompt(policy, tree, source, place, settings)
    except PolicyFailure:
        return None
    return Teacher(prompt, sampled, settings.distillation.kl_share) if sampled and prompt != own else None


async def _sampling_prompt(
    policy: Policy, tree: ExplorationTree, attempt: int, place: int, settings: Settings
) -> tuple[int, ...]:
    """Return the prompt of an attempt's action: a branch's holds its experience as long as `reflection.scope` says.

    Raises PolicyFailure where it cannot be built.
    """
    branch, path = tree.attempts[attempt].branch, tree.path(attempt)[:place]
    told = branch.reflection.experience if branch and settings.reflection.experience else ""
    if branch is None or not told.strip() or (settings.reflection.scope == "step" and branch.step < place):
        return path[-1].history.token_ids
    note = PromptNote(branch.step, experience_note(told))
    prompt = await annotate(policy, path[branch.step - 1].history, note.text)
    for t in range(branch.step, place):
        prompt = await history_after(policy, path[:t], settings.context, prompt=prompt, note=note)
    return prompt.token_ids
