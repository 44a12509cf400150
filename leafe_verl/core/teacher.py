"""The teacher of the loss `kl`: the policy itself, with the experience in its prompt.

A counterfactual example, and what its teacher reads:

    example   o_1  a_1  o_2      a'_2        the policy learns a'_2 here,
    teacher   o_1  a_1  o_2  e   a'_2        as it would be continued here, token for token

Trees keep the experience e, but not the prompt that held it, so that the prompt is made again as it was when a'_2 was
sampled. Where the context window had moved, a stored tree no longer knows the sampled tokens apart from the text, and
the teacher reads the text as it is tokenised now.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from leafe_verl.core.policy import Policy, PolicyFailure, annotate
from leafe_verl.core.reflection import experience_note
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.core.sft_examples import Example, Kind, Teacher
from leafe_verl.core.tree import ExplorationTree


async def with_teachers(
    policy: Policy, tree: ExplorationTree, examples: Sequence[Example], settings: DistillationSettings
) -> list[Example]:
    """Return the examples, the counterfactual ones with their teachers if the loss is `kl`.

    An example stays without a teacher, and so is trained by -log pi, where its branch has no experience, and where the
    prompt with the experience cannot be built. `policy` tokenises prompts and samples nothing.
    """
    if settings.loss != "kl":
        return list(examples)
    return [
        dataclasses.replace(example, teacher=await _teacher(policy, tree, example, settings))
        if example.kind is Kind.COUNTERFACTUAL
        else example
        for example in examples
    ]


async def _teacher(
    policy: Policy, tree: ExplorationTree, example: Example, settings: DistillationSettings
) -> Teacher | None:
    branch, step = tree.attempts[example.attempt].branch, tree.path(example.attempt)[example.step - 1]
    sampled = sum(step.action.mask(added_tokens=False, thoughts=settings.thoughts))
    if branch is None or not branch.reflection.experience.strip() or not sampled:
        return None
    try:
        prompt = await annotate(policy, step.history, experience_note(branch.reflection.experience))
    except PolicyFailure:
        return None
    return Teacher(prompt.token_ids, sampled)
