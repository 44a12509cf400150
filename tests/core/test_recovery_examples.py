"""What is trained on beyond the paper: recovery targets, their masked contexts, and what holds the policy still."""

from __future__ import annotations

import dataclasses

import pytest

from fakes import ASSISTANT, END, USER, Cut, ScriptedPolicy, experience_in, grow, reflection, text_of
from leafe_verl.core import Kind, Outcome, RecoveryTarget, Task, build_examples
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.core.sft_examples import Example
from leafe_verl.core.token_sequences import build_sequence, failed_positions
from quiz import RIGHT, Quiz, confirm, played

MASK = 9
TEMPLATE = {USER, ASSISTANT, END}


def only(tree, kind, seed=0, mask_id=None, **settings):
    chosen = DistillationSettings(**{"recovery_targets": 9, "rehearsal_share": 1.0, **settings})
    return [example for example in build_examples(tree, chosen, seed, mask_id) if example.kind is kind]


def recovered(*walks, **settings):
    tree = played(*walks, **settings)
    confirm(tree, 9)
    return tree


class TestRecovery:
    def test_the_target_follows_the_failed_turn_and_its_feedback(self):
        (example,) = only(recovered(["xy", "z"], ["a"]), Kind.RECOVERY)
        assert (example.attempt, example.step, example.source) == (0, 2, 1)
        assert text_of(example.sequence.token_ids) == "<u>?<end><a>xy<end><u>xy!<end><a>a<end>"
        assert example.sequence.mask == (0,) * 13 + (1, 1)
        assert example.sequence.prompt_length == 13

    def test_what_the_environment_refused_is_no_target(self):
        tree = recovered(["x", "-"], ["a"], ["b"], data=RIGHT | {"spoiled": {"a": "x"}})
        assert len(tree.recovery_targets) == 2
        assert [example.source for example in only(tree, Kind.RECOVERY)] == [2]

    @pytest.mark.parametrize("targets", [0, 1, 2])
    def test_a_setting_limits_their_number(self, targets):
        tree = recovered(["x", "-"], ["a"], ["b"], ["c"])
        assert len(only(tree, Kind.RECOVERY, recovery_targets=targets)) == targets

    def test_a_cut_action_is_one_by_a_setting_alone(self):
        tree = played(["x", "-"], [Cut("a")])
        tree.recovery_targets = [RecoveryTarget(0, 2, 1, Outcome.SUCCESS)]
        assert only(tree, Kind.RECOVERY) == []
        (example,) = only(tree, Kind.RECOVERY, incomplete_actions=True)
        assert sum(example.sequence.mask) == 1

    def test_early_experience_has_none(self):
        tree = recovered(["x", "-"], ["a"])
        assert only(tree, Kind.RECOVERY, method="early_experience") == []
        assert only(tree, Kind.HOLD, method="early_experience", hold_share=1.0) == []

    def test_the_others_are_drawn_as_without_them(self):
        tree = recovered(*(["x", "-"], ["a"], ["b"], ["c"]) * 3)
        plain, more = DistillationSettings(rehearsal_share=0.5), {"recovery_targets": 2, "hold_share": 0.5}
        for seed in range(20):
            found = build_examples(tree, plain.model_copy(update=more), seed, MASK)
            assert [e for e in found if e.kind is Kind.REHEARSAL] == build_examples(tree, plain, seed)


class TestContextMask:
    LONG = (["one", "two", "three"], ["a"])

    def masked(self, share, seed=0):
        tree = recovered(*self.LONG)
        plain = only(tree, Kind.RECOVERY)
        return list(zip(plain, only(tree, Kind.RECOVERY, seed, MASK, context_mask=share), strict=True))

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
    def test_replaces_its_share_of_the_failed_turns_alone(self, share):
        for plain, masked in self.masked(share):
            before, after = plain.sequence, masked.sequence
            changed = [i for i, (a, b) in enumerate(zip(before.token_ids, after.token_ids, strict=True)) if a != b]
            assert len(changed) == round(share * {2: 3, 3: 6}[plain.step])
            assert all(after.token_ids[i] == MASK and not after.mask[i] for i in changed)
            assert all(before.token_ids[i] not in TEMPLATE for i in changed)
            assert dataclasses.replace(masked, sequence=before) == plain and after.mask == before.mask

    def test_of_everything_leaves_feedback_and_target(self):
        first, second = sorted((masked.sequence for _, masked in self.masked(1.0)), key=lambda s: len(s.token_ids))
        assert text_of(first.token_ids) == "<u>?<end><a>\t\t\t<end><u>one!<end><a>a<end>"
        assert text_of(second.token_ids) == "<u>?<end><a>\t\t\t<end><u>one!<end><a>\t\t\t<end><u>two!<end><a>a<end>"

    def test_is_drawn_by_the_seed(self):
        drawn = [[masked for _, masked in self.masked(0.4, seed)] for seed in range(8)]
        assert drawn == [[masked for _, masked in self.masked(0.4, seed)] for seed in range(8)]
        assert len({each[-1].sequence.token_ids for each in drawn}) > 2

    def test_without_a_token_the_history_stays(self):
        tree = recovered(*self.LONG)
        assert only(tree, Kind.RECOVERY, context_mask=1.0) == only(tree, Kind.RECOVERY)

    def test_leaves_turns_that_did_not_fail(self):
        path = played(["one", "two", "three"]).path(0)
        path = [dataclasses.replace(path[0], failed=None), *path[1:]]
        begin = len(path[1].history.token_ids)
        assert failed_positions(path) == [begin, begin + 1, begin + 2]

    def test_a_cut_turn_has_no_end_to_keep(self):
        path = played([Cut("one"), "two"]).path(0)
        assert failed_positions(path) == [4, 5, 6]

    def test_turns_that_a_summary_replaced_are_not_in_the_history(self):
        path = played(["one", "two", "three"], context={"window": 1}).path(0)
        assert [text_of([path[2].history.token_ids[p]]) for p in failed_positions(path)] == list("two")

    def test_a_trained_token_is_never_masked(self):
        sequence = build_sequence(played(["one"]).path(0))
        with pytest.raises(ValueError, match="token 4 is trained on"):
            sequence.with_masked_context([4], MASK)


class TestHold:
    def test_trains_what_the_roots_did_up_to_their_first_failure(self):
        tree = recovered(["x", "y"], ["a"])
        assert only(tree, Kind.HOLD, hold_share=1.0) == [
            Example(Kind.HOLD, build_sequence(tree.path(0)[:1]), 0, 1),
            Example(Kind.HOLD, build_sequence(tree.path(1)), 1, 1),
        ]

    def test_an_action_that_the_limit_cut_counts_too(self):
        (example,) = only(played([Cut("x"), "y"]), Kind.HOLD, hold_share=1.0)
        assert example.sequence.mask == (0, 0, 0, 0, 1)

    def test_a_turn_without_a_verdict_is_no_failure(self):
        tree = grow(ScriptedPolicy({"0": "R", "1": "X", "?": "R", "2": "L"}), budget={"depth": 0})
        assert [step.failed for step in tree.path(0)] == [None, True, None, None]
        (example,) = only(tree, Kind.HOLD, hold_share=1.0)
        assert example.sequence == build_sequence(tree.path(0)[:2])

    def test_unscored_attempts_and_branches_give_none(self):
        tree = branched()
        assert [example.attempt for example in only(tree, Kind.HOLD, hold_share=1.0)] == [0]
        tree.attempts[0] = dataclasses.replace(tree.attempts[0], outcome=Outcome.POLICY_FAILURE)
        assert only(tree, Kind.HOLD, hold_share=1.0) == []

    def test_draws_its_share_by_the_seed(self):
        tree = played(*[["x", "y"]] * 10)
        drawn = [len(only(tree, Kind.HOLD, seed, hold_share=0.3)) for seed in range(50)]
        assert 100 < sum(drawn) < 200
        assert drawn == [len(only(tree, Kind.HOLD, seed, hold_share=0.3)) for seed in range(50)]
        assert only(tree, Kind.HOLD) == []


def branched():
    """A root x x, with branches that succeed: b from step 1, then a from step 2."""

    def act(messages):
        return {None: "x", "e1": "b", "e2": "a"}[experience_in(messages)]

    return grow(
        ScriptedPolicy(act, {t: reflection(t, f"e{t}") for t in (1, 2)}),
        Quiz,
        task=Task("quiz", "", "quiz", RIGHT),
        environment={"horizon": 2},
        budget={"depth": 1},
        reflection={"interval": 1},
    )


@pytest.mark.parametrize(("histories", "steps"), [("every", [1, 2]), ("failed", [2])])
def test_l_cf_is_of_all_branches_or_of_those_that_follow_a_failure(histories, steps):
    found = only(branched(), Kind.COUNTERFACTUAL, counterfactual_histories=histories)
    assert [example.step for example in found] == steps


class TestRehearsalAtOnce:
    def test_is_of_roots_that_never_failed(self):
        tree = played(["x", "a"], ["a"], ["x", "y"])
        assert [e.attempt for e in only(tree, Kind.REHEARSAL)] == [0, 1]
        assert [e.attempt for e in only(tree, Kind.REHEARSAL, rehearsal="at_once")] == [1]

    def test_is_of_no_branch(self):
        assert [e.attempt for e in only(branched(), Kind.REHEARSAL)] == [1, 2]
        assert only(branched(), Kind.REHEARSAL, rehearsal="at_once") == []

    def test_a_program_counts_as_often_as_it_was_sampled(self):
        tree = played(["a"], ["a"], ["a"], ["b"])
        assert len(only(tree, Kind.REHEARSAL, rehearsal="at_once")) == 4
        drawn = [len(only(tree, Kind.REHEARSAL, s, rehearsal="at_once", rehearsal_share=0.5)) for s in range(50)]
        assert 70 < sum(drawn) < 130
