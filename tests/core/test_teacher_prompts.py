"""The teacher of `kl` reads the prompt that a revised action was sampled from, and is asked about sampled tokens."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from core.test_explore import careless
from core.test_recovery_examples import recovered
from core.test_sft_examples import ALL, rescued, varied
from fakes import ScriptedPolicy, Stopped, experience_in, grow, reflection, text_of, turns_in
from leafe_verl.core import Kind, Outcome, RecoveryTarget, build_examples
from leafe_verl.core.settings import DistillationSettings, ReflectionSettings, Settings, SettingsError
from leafe_verl.core.teacher import with_teachers
from leafe_verl.trees import Provenance
from leafe_verl.trees.rows import from_row, to_row

KL = ALL.model_copy(update={"loss": "kl"})


def taught(tree, distillation=KL, policy=None, **reflection):
    examples = build_examples(tree, distillation, seed=0)
    settings = Settings(distillation=distillation, reflection=ReflectionSettings(**reflection))
    return asyncio.run(with_teachers(policy or ScriptedPolicy({}), tree, examples, settings))


def test_the_teacher_reads_the_experience_behind_the_history():
    example, rehearsal = taught(rescued())
    assert (example.kind, example.teacher.tokens) == (Kind.COUNTERFACTUAL, 2)
    history = text_of(example.sequence.token_ids[: example.sequence.prompt_length])
    prompt = text_of(example.teacher.prompt)
    before = history.removesuffix("<end><a>")
    assert prompt.startswith(before) and prompt.endswith("do not jump<end><a>") and "Advice" in prompt
    assert rehearsal.teacher is None


@pytest.mark.parametrize("stored", [False, True])
def test_each_teacher_reads_the_prompt_that_its_action_was_sampled_from(stored):
    """Branches of branches too: the experience of the first is not in the prompt of the second."""

    def act(messages):
        return {None: "J", "e1": "R", "e2": "L"}[experience_in(messages)] if turns_in(messages) > 1 else "R"

    policy = ScriptedPolicy(act, lambda messages, t: reflection(2 if t < 4 else 3, "e1" if t < 4 else "e2"))
    tree = grow(policy, budget={"depth": 2, "attempts": 6}, reflection={"interval": 3})
    sampled = {prompt.token_ids for prompt in policy.prompts}
    if stored:
        tree = from_row(to_row(tree, Provenance()))
    examples = [example for example in taught(tree) if example.kind is Kind.COUNTERFACTUAL]
    assert len(examples) > 1 and {example.teacher.prompt for example in examples} <= sampled
    assert {tree.attempts[example.attempt].depth for example in examples} == {1, 2}


def test_a_token_that_was_added_is_not_the_teachers():
    (example, *_) = taught(rescued(Stopped("R")))
    assert sum(example.sequence.mask) == 2 and example.teacher.tokens == 1


def test_thoughts_that_are_not_trained_on_are_not_taught():
    tree = rescued()
    (step, *steps) = tree.attempts[1].steps
    action = dataclasses.replace(step.action, num_thoughts=1)
    thought = dataclasses.replace(tree.attempts[1], steps=(dataclasses.replace(step, action=action), *steps))
    tree.attempts[1] = thought
    tokens = [taught(tree, KL.model_copy(update={"thoughts": each}))[0].teacher.tokens for each in (True, False)]
    assert tokens == [2, 1]


def test_what_has_no_teacher_is_trained_on_as_ever():
    tree = varied()
    for _, branch in tree.branches():
        object.__setattr__(branch.reflection, "experience", " ")
    assert [example.teacher for example in taught(tree)] == [None] * len(build_examples(tree, KL, seed=0))
    too_small = ScriptedPolicy({}, window=30)
    assert taught(rescued(), policy=too_small) == build_examples(rescued(), KL, seed=0)


def test_the_teacher_of_a_recovery_target_reads_what_the_action_was_sampled_from():
    tree = recovered(["xy", "z"], ["a"])
    settings = ALL.model_copy(update={"recovery_targets": 9, "recovery_loss": "kl", "kl_share": 0.5})
    (example,) = [each for each in taught(tree, settings) if each.kind is Kind.RECOVERY]
    assert text_of(example.teacher.prompt) == "<u>?<end><a>"
    assert (example.teacher.tokens, example.teacher.share) == (2, 0.5)


@pytest.mark.parametrize(("scope", "stored"), [("attempt", False), ("attempt", True), ("step", False)])
def test_a_branch_s_later_action_is_taught_as_it_was_sampled(scope, stored):
    policy = ScriptedPolicy(careless, {4: reflection(2, "do not jump")})
    tree = grow(policy, budget={"depth": 1}, reflection={"scope": scope})
    ((index, _),) = tree.branches()
    assert len(tree.attempts[index].steps) > 1
    tree.recovery_targets = [RecoveryTarget(0, len(tree.path(0)), index, Outcome.SUCCESS)]
    settings = ALL.model_copy(update={"recovery_targets": 9, "recovery_loss": "kl"})
    source = from_row(to_row(tree, Provenance())) if stored else tree
    (example,) = [each for each in taught(source, settings, scope=scope) if each.kind is Kind.RECOVERY]
    assert ("do not jump" in text_of(example.teacher.prompt)) is (scope == "attempt")
    assert example.teacher.prompt == policy.prompts[-1].token_ids


@pytest.mark.parametrize("experience", [True, False])
def test_advice_is_in_the_prompt_of_a_recovery_target_if_it_was_there(experience):
    tree = rescued()
    branch = tree.attempts[1]
    tree.attempts[1] = dataclasses.replace(branch, steps=branch.steps[:1])
    tree.recovery_targets = [RecoveryTarget(0, 4, 1, Outcome.SUCCESS)]
    settings = ALL.model_copy(update={"recovery_targets": 9, "recovery_loss": "kl"})
    examples = taught(tree, settings, experience=experience)
    (example,) = [each for each in examples if each.kind is Kind.RECOVERY]
    assert ("do not jump" in text_of(example.teacher.prompt)) == experience


def test_a_held_turn_is_taught_by_the_policy_as_it_was():
    settings = ALL.model_copy(update={"hold_share": 1.0, "hold_loss": "kl", "kl_share": 0.5})
    held = [each for each in taught(rescued(Stopped("R")), settings) if each.kind is Kind.HOLD]
    for example in held:
        assert example.teacher.prompt == example.sequence.token_ids[: example.sequence.prompt_length]
        assert (example.teacher.tokens, example.teacher.share) == (sum(example.sequence.mask), 1.0)
    assert held


def test_a_token_that_was_added_is_not_held_by_a_teacher():
    tree = grow(ScriptedPolicy(lambda messages: Stopped("R")), budget={"depth": 0})
    tokens = [
        sum(example.sequence.mask)
        for loss in ("nll", "kl")
        for example in build_examples(tree, ALL.model_copy(update={"hold_share": 1.0, "hold_loss": loss}), seed=0)
        if example.kind is Kind.HOLD
    ]
    assert tokens[0] == 2 * tokens[1] > 0


def test_other_losses_ask_no_teacher():
    assert taught(rescued(), ALL) == build_examples(rescued(), ALL, seed=0)
    assert build_examples(rescued(), KL, seed=0) == build_examples(rescued(), ALL, seed=0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"target": "suffix"}, "target 'suffix'; expected leafe.distillation.method=leafe and target=action"),
        ({"method": "early_experience"}, "loss is 'kl', with method 'early_experience'"),
        ({"share_prefixes": False}, "loss is 'kl', with loss 'kl' and share_prefixes False; expected .* prefix trees"),
        ({"loss": "dpo", "hold_loss": "kl", "hold_share": 0.5}, "hold_loss is 'kl', with loss 'dpo'"),
        (
            {"loss": "nll", "recovery_loss": "kl", "recovery_targets": 4, "share_prefixes": False},
            "recovery_loss is 'kl', with .* False",
        ),
        ({"control": "rehearsal"}, "leafe.distillation.control is 'rehearsal', with method 'leafe' and loss 'kl'"),
        ({"kl_share": 0.0}, "leafe.distillation.kl_share is 0.0; expected a number above 0 and at most 1"),
    ],
)
def test_what_a_teacher_cannot_do_is_refused(values, said):
    with pytest.raises(SettingsError, match=said) as raised:
        Settings.from_mapping({"distillation": {"loss": "kl", **values}})
    assert len(raised.value.problems) == 1


def test_a_teacher_without_experience_is_refused():
    with pytest.raises(SettingsError, match="expected leafe.reflection.experience=true"):
        Settings.from_mapping({"distillation": {"loss": "kl"}, "reflection": {"experience": False}})


def test_a_loss_without_examples_needs_no_teacher():
    settings = DistillationSettings(recovery_loss="kl", hold_loss="kl", share_prefixes=False)
    assert settings.kl_losses == []
    assert settings.model_copy(update={"hold_share": 0.1, "recovery_targets": 1}).kl_losses == [
        "recovery_loss",
        "hold_loss",
    ]
