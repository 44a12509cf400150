"""Thoughts are no part of an answer; they are trained on, or shown in later prompts, by a setting."""

from __future__ import annotations

import dataclasses

import pytest

from fakes import (
    ASSISTANT,
    END,
    LOG_PROB,
    USER,
    ScriptedPolicy,
    experience_in,
    grow,
    observation_in,
    reflection,
    tokens,
)
from leafe_verl.core import History, Kind, Turn, build_examples
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.core.statistics import count
from leafe_verl.core.thoughts import split_thoughts
from leafe_verl.core.token_sequences import build_sequences, failed_positions, split_at_new_prompts
from leafe_verl.trees.rows import from_row, to_row
from trees.stores import provenance

THOUGHT = "(hm)"


@pytest.mark.parametrize(
    ("text", "thoughts", "answer"),
    [
        ("go", "", "go"),
        (" go", "", " go"),
        ("<think>Action: look</think>\n\ngo", "<think>Action: look</think>\n\n", "go"),
        ("[THINK]a[/THINK]go", "[THINK]a[/THINK]", "go"),
        ("<think>a</think> b <think>c</think> go", "<think>a</think> b <think>c</think> ", "go"),
        ("look <think>no, not that</think> go", "look <think>no, not that</think> ", "go"),
        ("<think>a</think> go <think>but", "<think>a</think> ", "go "),
        ("<think>a", "<think>a", ""),
        ("<think>a</think>", "<think>a</think>", ""),
    ],
)
def test_an_answer_follows_the_last_thought(text, thoughts, answer):
    assert split_thoughts(text) == (thoughts, answer)


@pytest.mark.parametrize(
    ("text", "thoughts", "answer"),
    [("a</think>\ngo", "a</think>\n", "go"), ("Action: look", "Action: look", ""), ("", "", "")],
)
def test_a_prompt_may_have_opened_the_thought(text, thoughts, answer):
    assert split_thoughts(text, opened=True) == (thoughts, answer)


class TestMask:
    turn = Turn("R", (1, 2, 3, 4, 5), num_added=1, num_thoughts=3, num_closing=1)

    @pytest.mark.parametrize(
        ("trained", "mask"),
        [
            ({}, [1, 1, 0, 1, 1]),
            ({"thoughts": False}, [0, 0, 0, 1, 1]),
            ({"added_tokens": False}, [1, 1, 0, 1, 0]),
            ({"added_tokens": False, "thoughts": False}, [0, 0, 0, 1, 0]),
        ],
    )
    def test_tokens_that_close_a_thought_are_never_trained_on(self, trained, mask):
        assert self.turn.mask(**trained) == mask
        assert self.turn.num_sampled == 3

    @pytest.mark.parametrize("numbers", [{"num_thoughts": 6}, {"num_closing": 1}, {"num_thoughts": 3, "num_added": 3}])
    def test_numbers_that_do_not_fit_are_refused(self, numbers):
        with pytest.raises(ValueError, match="are said to be"):
            Turn("R", (1, 2, 3, 4, 5), **numbers)


class Thinking(ScriptedPolicy):
    """Thinks before every action; its prompts hold the thoughts of earlier turns, or not."""

    drops = True

    async def act(self, history, request):
        turn = await super().act(history, request)
        token_ids = (*tokens(THOUGHT), *turn.token_ids)
        return dataclasses.replace(
            turn, token_ids=token_ids, log_probs=(LOG_PROB,) * len(token_ids), num_thoughts=len(THOUGHT)
        )

    async def extend(self, history, turn, observation):
        if not self.drops:
            return await super().extend(history, turn, observation)
        news = ({"role": "assistant", "content": turn.text}, {"role": "user", "content": observation})
        token_ids = (*history.token_ids, *turn.answer_ids, USER, *tokens(observation), END, ASSISTANT)
        return History(token_ids, (*history.messages, *news), (history, turn))


class Keeping(Thinking):
    drops = False


def grown(policy):
    """R J R R into the pit; then, rolled back to step 2 with an experience: R R R to the end."""

    def act(messages):
        told = experience_in(messages) is not None
        return "J" if observation_in(messages) == "1" and not told else "R"

    return grow(policy(act, {4: reflection(2, "do not jump")}), budget={"depth": 1})


def masked(sequence):
    """The text of the trained tokens."""
    return "".join(chr(t) for t, trained in zip(sequence.token_ids, sequence.mask, strict=True) if trained and t != END)


def all_text(sequence):
    return "".join(chr(token) for token in sequence.token_ids if token > END)


@pytest.mark.parametrize("thoughts", [True, False])
def test_every_turn_whose_thoughts_are_dropped_ends_a_sequence(thoughts):
    tree, said = grown(Thinking), f"{THOUGHT}R" if thoughts else "R"
    sequences = [sequence for _, sequence in build_sequences(tree.path(1), thoughts=thoughts)]
    assert [masked(sequence) for sequence in sequences] == [said, said, said]
    assert [all_text(sequence) for sequence in sequences] == [f"0{THOUGHT}R", f"0R1{THOUGHT}R", f"0R1R2{THOUGHT}R"]


def test_an_attempt_whose_thoughts_are_kept_is_one_sequence():
    ((_, sequence),) = build_sequences(grown(Keeping).path(1), thoughts=False)
    assert (masked(sequence), all_text(sequence)) == ("RRR", f"0{THOUGHT}R1{THOUGHT}R2{THOUGHT}R")


@pytest.mark.parametrize("policy", [Thinking, Keeping])
@pytest.mark.parametrize("thoughts", [True, False])
def test_the_setting_says_whether_examples_train_on_thoughts(policy, thoughts):
    settings = DistillationSettings(rehearsal_share=1.0, hold_share=1.0, target="suffix", thoughts=thoughts)
    examples = build_examples(grown(policy), settings, seed=0)
    assert {example.kind for example in examples} == {Kind.COUNTERFACTUAL, Kind.REHEARSAL, Kind.HOLD}
    assert all((THOUGHT in masked(example.sequence)) == thoughts for example in examples)


@pytest.mark.parametrize("policy", [Thinking, Keeping])
def test_a_stored_tree_gives_the_same_examples(policy):
    tree = grown(policy)
    read = from_row(to_row(tree, provenance()))
    settings = DistillationSettings(rehearsal_share=1.0, hold_share=1.0, thoughts=False)
    assert build_examples(read, settings, seed=0) == build_examples(tree, settings, seed=0)
    assert [split_at_new_prompts(read.path(n)) for n in (0, 1)] == [split_at_new_prompts(tree.path(n)) for n in (0, 1)]


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(("policy", "shown"), [(Thinking, "J"), (Keeping, f"{THOUGHT}J")])
def test_failed_turns_are_found_with_or_without_their_thoughts(policy, shown, stored):
    tree = from_row(to_row(grown(policy), provenance())) if stored else grown(policy)
    steps = [dataclasses.replace(step, failed=step.action.text == "J") for step in tree.path(0)]
    token_ids = steps[-1].history.token_ids
    assert "".join(chr(token_ids[position]) for position in sorted(failed_positions(steps))) == shown


class Tagging(Thinking):
    """A policy whose template leaves the closing tag of a dropped thought, as DeepSeek-V3.1's does."""

    async def extend(self, history, turn, observation):
        extended = await super().extend(history, turn, observation)
        begin = len(history.token_ids)
        token_ids = (*history.token_ids, *tokens("</t>"), *extended.token_ids[begin:])
        return dataclasses.replace(extended, token_ids=token_ids)


def test_failed_turns_are_found_behind_what_the_template_left_of_their_thoughts():
    steps = [dataclasses.replace(step, failed=step.action.text == "J") for step in grown(Tagging).path(0)]
    token_ids = steps[-1].history.token_ids
    assert "".join(chr(token_ids[position]) for position in failed_positions(steps)) == "J"


def test_tokens_that_closed_the_thoughts_of_a_reflection_were_not_sampled():
    class Closing(ScriptedPolicy):
        async def reflect(self, history, schema, request):
            turn = await super().reflect(history, schema, request)
            return dataclasses.replace(turn, num_thoughts=3, num_closing=2)

    tree = grow(Closing(lambda messages: "L", {4: reflection(1, "e")}), budget={"depth": 1})
    (_, found), *_ = tree.reflections
    assert found.num_tokens == len(tokens(reflection(1, "e"))) + 1 - 2


def test_thoughts_are_counted():
    tree = grown(Keeping)
    first = tree.attempts[0].steps[0]
    closed = dataclasses.replace(first.action, num_closing=1)
    steps = (dataclasses.replace(first, action=closed), *tree.attempts[0].steps[1:])
    tree.attempts[0] = dataclasses.replace(tree.attempts[0], steps=steps)
    counts = count(tree, [])
    number = sum(len(attempt.steps) for attempt in tree.attempts)
    assert (counts["thought_tokens"], counts["closed_thoughts"]) == (number * len(THOUGHT) - 1, 1)
