"""The controls: pairs for DPO, L_cf alone, and rehearsal with the volume of what it replaces."""

from __future__ import annotations

import dataclasses
import random

import pytest

from core.test_sft_examples import ALL, rescued, varied
from fakes import ScriptedPolicy, grow, reflection
from leafe_verl.core import Kind, Outcome, build_examples
from leafe_verl.core.matched_volume import Volume, matched_uses
from leafe_verl.core.settings import Settings, SettingsError

DPO = ALL.model_copy(update={"loss": "dpo", "rehearsal_share": 0.0})


class TestPreference:
    def test_a_pair_is_the_revised_and_the_failed_action_after_one_history(self):
        chosen, rejected = build_examples(rescued(), DPO, seed=0)
        assert [(each.kind, each.attempt, each.step, each.rejected) for each in (chosen, rejected)] == [
            (Kind.PREFERENCE, 1, 2, False),
            (Kind.PREFERENCE, 0, 2, True),
        ]
        # fmt: off
        # user "0" end assistant "R" end | user "1" end assistant "R" end, and the same with "J"
        assert chosen.sequence.token_ids == (
            2,    48,  4,  3,       82, 4,    2,    49,  4,  3,       82, 4)
        assert rejected.sequence.token_ids == (
            2,    48,  4,  3,       82, 4,    2,    49,  4,  3,       74, 4)
        # fmt: on
        for example in (chosen, rejected):
            assert example.sequence.mask == (0,) * 10 + (1, 1) and example.sequence.prompt_length == 10

    @pytest.mark.parametrize("events", ["improved", "every"])
    def test_the_chosen_actions_are_the_targets_of_the_counterfactual_loss(self, events):
        settings = ALL.model_copy(update={"events": events, "rehearsal_share": 0.0})
        targets = build_examples(varied(), settings, seed=0)
        pairs = build_examples(varied(), settings.model_copy(update={"loss": "dpo"}), seed=0)
        revised = {target.attempt: target.sequence for target in targets}
        assert pairs and [pair.rejected for pair in pairs] == [False, True] * (len(pairs) // 2)
        for chosen, rejected in zip(pairs[::2], pairs[1::2], strict=True):
            assert chosen.sequence == revised[chosen.attempt]
            prompt = chosen.sequence.prompt_length
            assert rejected.sequence.token_ids[:prompt] == chosen.sequence.token_ids[:prompt]

    def test_the_same_action_again_gives_no_pair(self):
        tree = grow(ScriptedPolicy({"0": "L"}, {4: reflection(1, "e")}), budget={"depth": 1})
        assert build_examples(tree, ALL, seed=0) and build_examples(tree, DPO, seed=0) == []

    def test_an_action_that_led_to_success_is_not_trained_away_from(self):
        tree = rescued()
        tree.attempts[0] = dataclasses.replace(tree.attempts[0], outcome=Outcome.SUCCESS)
        assert build_examples(tree, DPO.model_copy(update={"events": "success"}), seed=0) == []

    def test_a_pair_of_which_half_trains_nothing_is_none(self):
        tree, settings = rescued(), DPO.model_copy(update={"thoughts": False, "incomplete_actions": True})
        assert len(build_examples(tree, settings, seed=0)) == 2
        first, cut, *others = tree.attempts[0].steps
        thought = dataclasses.replace(cut.action, complete=False, num_thoughts=len(cut.action.token_ids))
        steps = (first, dataclasses.replace(cut, action=thought), *others)
        tree.attempts[0] = dataclasses.replace(tree.attempts[0], steps=steps)
        assert build_examples(tree, settings, seed=0) == []

    def test_successful_attempts_may_be_rehearsed_beside_it(self):
        kinds = [e.kind for e in build_examples(rescued(), DPO.model_copy(update={"rehearsal_share": 1.0}), seed=0)]
        assert kinds == [Kind.PREFERENCE, Kind.PREFERENCE, Kind.REHEARSAL]


class TestCounterfactualAlone:
    @pytest.mark.parametrize("tree", [rescued, varied])
    def test_without_rehearsal_the_same_targets_remain(self, tree):
        both = build_examples(tree(), ALL, seed=0)
        alone = build_examples(tree(), ALL.model_copy(update={"rehearsal_share": 0.0}), seed=0)
        assert alone == [example for example in both if example.kind is Kind.COUNTERFACTUAL] != []
        assert len(alone) < len(both)


class TestRehearsalAlone:
    def test_offers_every_successful_attempt_and_nothing_else(self):
        settings = ALL.model_copy(update={"rehearsal_share": 0.1, "control": "rehearsal"})
        offered = build_examples(varied(), settings, seed=0)
        assert offered == [example for example in build_examples(varied(), ALL, 0) if example.kind is Kind.REHEARSAL]

    @pytest.mark.parametrize("seed", range(50))
    def test_matches_the_tokens_with_equal_use(self, seed):
        draw = random.Random(seed)
        tokens = [draw.randrange(20, 200) for _ in range(draw.randrange(1, 12))]
        wanted = draw.randrange(20, 3000)
        uses = matched_uses(tokens, wanted, 0, random.Random(seed))
        trained = sum(number * each for number, each in zip(uses, tokens, strict=True))
        assert abs(trained - wanted) <= min(tokens) or abs(trained - wanted) <= 100, "half an example"
        assert max(uses) - min(uses) <= 1
        assert uses == matched_uses(tokens, wanted, 0, random.Random(seed))

    def test_who_is_used_once_more_is_drawn(self):
        drawn = {tuple(matched_uses([10, 10, 10], 40, 0, random.Random(seed))) for seed in range(20)}
        assert drawn == {(2, 1, 1), (1, 2, 1), (1, 1, 2)}

    def test_every_optimiser_step_has_an_example(self):
        assert matched_uses([100, 90], 120, 5, random.Random(0)) in ([3, 2], [2, 3])

    def test_without_a_success_there_is_nothing_to_rehearse(self):
        assert matched_uses([], 120, 5, random.Random(0)) == []

    def test_the_volume_is_that_of_the_trained_tokens(self):
        assert Volume.of(build_examples(rescued(), ALL, seed=0)) == Volume(examples=2, tokens=2 + 6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"control": "rehearsal", "loss": "dpo"}, "leafe.distillation.control is 'rehearsal', with method 'leafe'"),
        ({"control": "rehearsal", "method": "early_experience"}, "expected leafe.distillation.method=leafe and loss"),
        ({"loss": "dpo", "target": "suffix"}, "leafe.distillation.loss is 'dpo', with method 'leafe' and target"),
        ({"loss": "dpo", "method": "early_experience"}, "since a pair is made of two actions"),
    ],
)
def test_controls_that_exclude_each_other_are_refused(values, said):
    with pytest.raises(SettingsError, match=said) as raised:
        Settings.from_mapping({"distillation": values})
    assert len(raised.value.problems) == 1
