"""Stage 2's data: which tokens are trained on, and which examples a tree gives."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from fakes import (
    ASSISTANT,
    END,
    LOG_PROB,
    TASK,
    USER,
    Cut,
    ScriptedPolicy,
    Stopped,
    experience_in,
    grow,
    observation_in,
    reflection,
    text_of,
    turns_in,
    wandering,
)
from leafe_verl.core import Kind, TokenSequence, build_examples, build_sequence
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.core.sft_examples import Example

ALL = DistillationSettings(events="every", events_per_task=99, rehearsal_share=1.0)


def rescued(revised="R"):
    """R J R R into the pit; then, rolled back to step 2 with an experience, R R to the end."""

    def act(messages):
        if experience_in(messages) is None:
            return "J" if observation_in(messages) == "1" else "R"
        return revised if observation_in(messages) == "1" else "R"

    return grow(ScriptedPolicy(act, {4: reflection(2, "do not jump")}), budget={"depth": 1})


def varied():
    """A root that falls into the pit, with branches: success, improvement, unscored, and neither."""
    actions = {None: "RJRR", "e1": "RRR", "e2": ".RQ", "e3": "..R!", "e4": "...R"}
    policy = ScriptedPolicy(
        lambda messages: actions[experience_in(messages)][turns_in(messages)],
        {t: reflection(t, f"e{t}") for t in range(1, 5)},
    )
    return grow(policy, budget={"depth": 1}, reflection={"interval": 1})


def only(tree, kind, **changes):
    settings = ALL.model_copy(update=changes)
    return [example for example in build_examples(tree, settings, seed=0) if example.kind is kind]


class TestTokens:
    def test_counterfactual_action(self):
        (example,) = only(rescued(), Kind.COUNTERFACTUAL)
        assert (example.attempt, example.step, example.sequence.prompt_length) == (1, 2, 10)
        # fmt: off
        # user "0" end assistant "R" end | user "1" end assistant "R" end
        assert example.sequence.token_ids == (
            2,    48,  4,  3,       82, 4,    2,    49,  4,  3,       82, 4)
        assert example.sequence.mask == (
            0,    0,   0,  0,       0,  0,    0,    0,   0,  0,       1,  1)
        # fmt: on

    def test_counterfactual_suffix(self):
        (example,) = only(rescued(), Kind.COUNTERFACTUAL, target="suffix")
        assert (example.attempt, example.step, example.sequence.prompt_length) == (1, 2, 10)
        # fmt: off
        # user "0" end assistant "R" end | user "1" end assistant "R" end | user "2" end assistant "R" end
        assert example.sequence.token_ids == (
            2,    48,  4,  3,       82, 4,    2,    49,  4,  3,       82, 4,    2,    50,  4,  3,       82, 4)
        assert example.sequence.mask == (
            0,    0,   0,  0,       0,  0,    0,    0,   0,  0,       1,  1,    0,    0,   0,  0,       1,  1)
        # fmt: on

    @pytest.mark.parametrize("added_tokens", [True, False])
    def test_an_added_end_of_turn(self, added_tokens):
        tree = grow(ScriptedPolicy({"0": Stopped("R"), "1": "R", "2": Stopped("R")}))
        sequence = build_sequence(tree.path(0), added_tokens=added_tokens)
        added, none, sampled = int(added_tokens), 0.0, LOG_PROB
        # fmt: off
        # user "0" end assistant "R" end | user "1" end assistant "R" end | user "2" end assistant "R" end
        assert sequence.token_ids == (
            2,    48,  4,  3,       82, 4,    2,    49,  4,  3,       82, 4,    2,    50,  4,  3,       82, 4)
        assert sequence.mask == (
            0,    0,   0,  0,   1, added,     0,    0,   0,  0,       1,  1,    0,    0,   0,  0,   1, added)
        # fmt: on
        assert (sequence.log_probs[4:6], sequence.log_probs[10:12]) == ((sampled, none), (sampled, sampled))
        (example,) = only(tree, Kind.REHEARSAL)
        assert example.sequence == build_sequence(tree.path(0)), "a stopped turn is complete, and its end is trained"

    def test_rehearsal_of_a_root(self):
        tree = grow(ScriptedPolicy({"0": "X", "?": "R", "1": "R", "2": "R"}))
        (example,) = only(tree, Kind.REHEARSAL)
        assert (example.attempt, example.step, example.sequence.prompt_length) == (0, 1, 4)
        # fmt: off
        # user "0" end assistant "X" end | user "?" end assistant "R" end | user "1" end assistant "R" end |
        # user "2" end assistant "R" end
        assert example.sequence.token_ids == (
            2,    48,  4,  3,       88, 4,    2,    63,  4,  3,       82, 4,    2,    49,  4,  3,       82, 4,
            2,    50,  4,  3,       82, 4)
        assert example.sequence.mask == (
            0,    0,   0,  0,       1,  1,    0,    0,   0,  0,       1,  1,    0,    0,   0,  0,       1,  1,
            0,    0,   0,  0,       1,  1)
        # fmt: on

    def test_rehearsal_of_a_branch_trains_on_its_parent_s_actions_before_the_rollback_point(self):
        (example,) = only(rescued(), Kind.REHEARSAL)
        assert (example.attempt, example.step, example.sequence.prompt_length) == (1, 1, 4)
        # fmt: off
        # user "0" end assistant "R" end | user "1" end assistant "R" end | user "2" end assistant "R" end
        assert example.sequence.token_ids == (
            2,    48,  4,  3,       82, 4,    2,    49,  4,  3,       82, 4,    2,    50,  4,  3,       82, 4)
        assert example.sequence.mask == (
            0,    0,   0,  0,       1,  1,    0,    0,   0,  0,       1,  1,    0,    0,   0,  0,       1,  1)
        # fmt: on

    def test_log_probs_are_where_the_mask_is_one(self):
        (example,) = only(rescued(), Kind.REHEARSAL)
        sequence = example.sequence
        assert sequence.log_probs == tuple(LOG_PROB * trained for trained in sequence.mask)

    def test_log_probs_that_the_engine_did_not_give_are_zero(self):
        (step,) = rescued().path(1)[:1]
        silent = dataclasses.replace(step, action=dataclasses.replace(step.action, log_probs=None))
        sequence = build_sequence([silent])
        assert sequence.mask == (0, 0, 0, 0, 1, 1)
        assert sequence.log_probs == (0.0,) * 6

    def test_a_rewritten_history_is_refused(self):
        first, second, third = rescued().path(1)
        # As Qwen3's chat template does, which drops the reasoning of earlier turns.
        shorter = dataclasses.replace(third.history, token_ids=third.history.token_ids[6:])
        rewritten = dataclasses.replace(third, history=shorter)
        with pytest.raises(ValueError, match="the chat template rewrote them"):
            build_sequence([first, second, rewritten])
        assert sum(build_sequence([first, second, third]).mask) == 6


class TestTokenSequence:
    def test_refuses_lists_of_different_lengths(self):
        with pytest.raises(ValueError, match="3 tokens, 2 mask, 3 log-probs"):
            TokenSequence((1, 2, 3), (0, 1), (0.0, 0.0, 0.0), 1)

    @pytest.mark.parametrize("prompt_length", [0, 2])
    def test_refuses_a_prompt_that_is_trained_on_or_empty(self, prompt_length):
        with pytest.raises(ValueError, match="prompt"):
            TokenSequence((1, 2, 3), (0, 1, 1), (0.0, 0.0, 0.0), prompt_length)


class TestIncompleteActions:
    def test_are_no_target_by_default(self):
        tree = rescued(revised=Cut("R"))
        assert only(tree, Kind.COUNTERFACTUAL) == []
        (example,) = only(tree, Kind.COUNTERFACTUAL, incomplete_actions=True)
        # fmt: off
        # user "0" end assistant "R" end | user "1" end assistant "R"
        assert example.sequence.token_ids == (
            2,    48,  4,  3,       82, 4,    2,    49,  4,  3,       82)
        assert example.sequence.mask == (
            0,    0,   0,  0,       0,  0,    0,    0,   0,  0,       1)
        # fmt: on

    def test_are_masked_within_a_rehearsal(self):
        (without,) = only(rescued(revised=Cut("R")), Kind.REHEARSAL)
        (with_it,) = only(rescued(revised=Cut("R")), Kind.REHEARSAL, incomplete_actions=True)
        # fmt: off
        # user "0" end assistant "R" end | user "1" end assistant "R" (end) | user "2" end assistant "R" end
        assert without.sequence.token_ids == with_it.sequence.token_ids == (
            2,    48,  4,  3,       82, 4,    2,    49,  4,  3,       82, 4,      2,    50,  4,  3,       82, 4)
        assert without.sequence.mask == (
            0,    0,   0,  0,       1,  1,    0,    0,   0,  0,       0,  0,      0,    0,   0,  0,       1,  1)
        assert with_it.sequence.mask == (
            0,    0,   0,  0,       1,  1,    0,    0,   0,  0,       1,  0,      0,    0,   0,  0,       1,  1)
        # fmt: on


def assistant_positions(token_ids):
    """Mark the tokens of assistant turns, from after the header to the end of turn, reading the tokens alone."""
    role, positions = None, []
    for position, token in enumerate(token_ids):
        if role == ASSISTANT:
            positions.append(position)
        role = token if token in (USER, ASSISTANT) else None if token == END else role
    return positions


class TestRandomTrees:
    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("target", ["action", "suffix"])
    def test_only_sampled_actions_are_trained_on(self, seed, target):
        tree = grow(wandering(seed), roots=2, budget={"attempts": 14, "depth": 3}, reflection={"interval": 2})
        settings = ALL.model_copy(update={"target": target, "incomplete_actions": bool(seed % 2)})
        examples = build_examples(tree, settings, seed)
        assert examples
        for example in examples:
            path, sequence = tree.path(example.attempt), example.sequence
            trained = {position for position, trained in enumerate(sequence.mask) if trained}
            assert trained <= set(assistant_positions(sequence.token_ids))
            runs = [sequence.token_ids[a:b] for a, b in runs_of(sequence.mask)]
            last = example.step if (example.kind, target) == (Kind.COUNTERFACTUAL, "action") else len(path)
            targets = [step.action for step in path[example.step - 1 : last]]
            assert runs == [a.token_ids for a in targets if a.complete or settings.incomplete_actions]
            assert "advice" not in text_of(sequence.token_ids).lower()
            assert not any(sequence.mask[: sequence.prompt_length])


def runs_of(mask):
    """Return the begin and end of every contiguous span of ones."""
    position = 0
    for trained, group in itertools.groupby(mask):
        begin, position = position, position + len(list(group))
        if trained:
            yield begin, position


class TestEvents:
    @pytest.mark.parametrize(("events", "attempts"), [("success", [1]), ("improved", [1, 2]), ("every", [1, 2, 4])])
    def test_decide_what_is_distilled(self, events, attempts):
        tree = varied()
        reached = [attempt.outcome.value for attempt in tree.attempts]
        assert reached == ["horizon", "success", "failure", "environment_failure", "horizon"]
        assert [example.attempt for example in only(tree, Kind.COUNTERFACTUAL, events=events)] == attempts

    def test_are_drawn_by_the_seed(self):
        settings, tree = ALL.model_copy(update={"events_per_task": 2, "rehearsal_share": 0.0}), varied()
        drawn = [tuple(example.attempt for example in build_examples(tree, settings, seed)) for seed in range(20)]
        assert set(drawn) == {(1, 2), (1, 4), (2, 4)}
        assert drawn == [
            tuple(example.attempt for example in build_examples(tree, settings, seed)) for seed in range(20)
        ]

    def test_are_drawn_by_the_task_s_key(self):
        settings, tree = ALL.model_copy(update={"events_per_task": 1}), varied()

        def drawn(key):
            tree.task = dataclasses.replace(TASK, key=key)
            return build_examples(tree, settings, seed=0)[0].attempt

        assert {drawn(str(number)) for number in range(20)} == {1, 2, 4}
        assert drawn("\ud83d") in {1, 2, 4}, "half an emoji, which UTF-8 cannot hold"

    @pytest.mark.parametrize("number", [0, 1, 2, 3])
    def test_are_limited_in_number(self, number):
        assert len(only(varied(), Kind.COUNTERFACTUAL, events_per_task=number)) == number

    def test_a_root_without_branches_has_none(self):
        assert only(grow(ScriptedPolicy({"0": "Q"}), budget={"depth": 0}), Kind.COUNTERFACTUAL) == []


class TestRehearsal:
    def test_each_tree_of_a_task_is_drawn_from_for_itself(self):
        settings = ALL.model_copy(update={"events_per_task": 0, "rehearsal_share": 0.5})
        trees = []
        for number in range(40):
            tree = rescued()
            step, *later = tree.attempts[0].steps
            action = dataclasses.replace(step.action, text=f"way {number}")
            steps = dataclasses.replace(step, action=action), *later
            tree.attempts[0] = dataclasses.replace(tree.attempts[0], steps=steps)
            trees.append(tree)
        drawn = [bool(build_examples(tree, settings, seed=0)) for tree in trees]
        assert {*drawn} == {True, False}, "a later pass over the task may rehearse what an earlier one did not"
        assert drawn == [bool(build_examples(tree, settings, seed=0)) for tree in trees]

    def test_is_of_successful_attempts_only(self):
        assert [example.attempt for example in only(varied(), Kind.REHEARSAL)] == [1]

    @pytest.mark.parametrize(("share", "fewest", "most"), [(0.0, 0, 0), (0.2, 20, 60), (1.0, 200, 200)])
    def test_draws_its_share_by_the_seed(self, share, fewest, most):
        settings, tree = ALL.model_copy(update={"events_per_task": 0, "rehearsal_share": share}), rescued()
        drawn = [len(build_examples(tree, settings, seed)) for seed in range(200)]
        assert fewest <= sum(drawn) <= most
        assert drawn == [len(build_examples(tree, settings, seed)) for seed in range(200)]


@pytest.mark.parametrize("events", ["improved", "success"])
def test_a_tree_without_success_or_improvement_gives_nothing(events):
    tree = grow(ScriptedPolicy({"0": "L"}, {4: reflection(1, "e")}), roots=2)
    assert len(tree.branches()) > 0
    assert build_examples(tree, ALL.model_copy(update={"events": events}), seed=0) == []


def test_an_example_says_where_it_comes_from():
    tree = rescued()
    assert build_examples(tree, ALL, seed=0) == [
        Example(Kind.COUNTERFACTUAL, build_sequence(tree.path(1)[:2], 2), 1, 2),
        Example(Kind.REHEARSAL, build_sequence(tree.path(1)), 1, 1),
    ]


class TestWorldModel:
    """Early Experience: observations are predicted, successes imitated."""

    def grown(self, answers, **policy):
        return grow(ScriptedPolicy(answers, **policy), budget={"depth": 0}, distillation={"method": "early_experience"})

    def examples(self, tree, kind):
        return only(tree, kind, method="early_experience")

    def test_every_observation_is_predicted_from_history_and_action(self):
        tree = self.grown({"0": "R", "1": "Q"})
        (example,) = self.examples(tree, Kind.WORLD_MODEL)
        # fmt: off
        # user "0" end assistant "R" end | user "1" end assistant "Q" end | user "1" end assistant
        assert example.sequence.token_ids == (
            2,    48,  4,  3,       82, 4,    2,    49,  4,  3,       81, 4,    2,    49,  4,  3)
        assert example.sequence.mask == (
            0,    0,   0,  0,       0,  0,    1,    1,   1,  1,       0,  0,    1,    1,   1,  1)
        # fmt: on
        assert example.sequence.prompt_length == 6
        assert self.examples(tree, Kind.REHEARSAL) == [], "a failure is not imitated"

    def test_a_success_is_imitated_as_well(self):
        tree = self.grown({"0": "R", "1": "R", "2": "R"})
        assert len(self.examples(tree, Kind.WORLD_MODEL)) == 1
        assert len(self.examples(tree, Kind.REHEARSAL)) == 1
        assert only(tree, Kind.WORLD_MODEL) == [], "LEAFE predicts no observations"

    def test_an_observation_too_long_for_the_window_is_left_out(self):
        tree = self.grown({"0": "R", "1": "Q"}, window=11)
        assert [attempt.outcome.value for attempt in tree.attempts] == ["failure"]
        (example,) = self.examples(tree, Kind.WORLD_MODEL)
        assert sum(example.sequence.mask) == 4

    def test_an_unscored_attempt_gives_no_example(self):
        assert build_examples(self.grown({"0": "!"}), ALL.model_copy(update={"method": "early_experience"}), 0) == []
