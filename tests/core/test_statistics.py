"""Counts, which add up over trees, and shares, which leave out what was not scored."""

from __future__ import annotations

import dataclasses
import os.path

import pytest

from fakes import (
    ASSISTANT,
    END,
    USER,
    Cut,
    ReplayCorridor,
    ScriptedPolicy,
    World,
    experience_in,
    grow,
    reflection,
    tokens,
    wandering,
)
from leafe_verl.core import Kind, Outcome, PromptUsage, build_examples
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.core.statistics import count, count_tasks, ratios, total

ALL = DistillationSettings(events="every", events_per_task=99, rehearsal_share=1.0)


def counted(tree):
    return count(tree, build_examples(tree, ALL, seed=0))


def rescued():
    """X L R L; then from step 2, with an experience, R R R; and from step 4, where the fallback rolls back to, !"""

    def act(messages):
        told = experience_in(messages)
        steps = sum(m["role"] == "assistant" for m in messages)
        return (Cut("X"), "L", "R", "L")[steps] if told is None else "!" if told == "?" else "R"

    policy = ScriptedPolicy(act, {2: "no idea", 4: reflection(2, "walk on")})
    return grow(policy, World(ReplayCorridor), budget={"depth": 1}, reflection={"interval": 2})


def test_counts_of_one_tree():
    tree = rescued()
    counts = counted(tree)
    assert {name: number for name, number in counts.items() if number} == {
        "trees": 1,
        "trees_scored": 1,
        "solved": 1,
        "attempts": 3,
        "attempts_scored": 2,
        "outcome/horizon": 1,
        "outcome/environment_failure": 1,
        "outcome/success": 1,
        "branches": 2,
        "branches_scored": 1,
        "branches_improved": 1,
        "branches_succeeded": 1,
        "branches_depth_1": 1,
        "branches_depth_1_succeeded": 1,
        "branches_parsed": 1,
        "branches_parsed_succeeded": 1,
        "reflections": 2,
        "reflections_parsed": 1,
        "reflections_fallback": 1,
        "environment_steps": 4 + 3,
        "replayed_steps": 1,
        "incomplete_actions": 1,
        # The root's four actions, one of them without end of turn; the branch's three; two reflections.
        "sampled_tokens": 7 + 6 + len("no idea") + 1 + len(reflection(2, "walk on")) + 1,
        "examples/counterfactual": 1,
        "examples/rehearsal": 1,
    }


def test_every_outcome_and_kind_is_counted_even_when_absent():
    counts = counted(grow(ScriptedPolicy({"0": "Q"}), roots=0))
    expected = {f"outcome/{outcome.value}" for outcome in Outcome} | {f"examples/{kind.value}" for kind in Kind}
    assert expected <= set(counts)
    assert {name for name, number in counts.items() if number} == {"trees"}


def test_counts_add_up():
    several = [counted(grow(wandering(seed), roots=2, reflection={"interval": 2})) for seed in range(3)]
    summed = total(several)
    assert set(summed) == set().union(*several)
    assert all(summed[name] == sum(counts.get(name, 0) for counts in several) for name in summed)
    assert sum(summed[f"outcome/{outcome.value}"] for outcome in Outcome) == summed["attempts"]
    assert summed["reflections_parsed"] + summed["reflections_fallback"] == summed["reflections"]
    assert total([]) == {}


def test_a_task_with_several_attempts_of_their_own_counts_once():
    solved, failed, unscored = {"trees_scored": 1, "solved": 1}, {"trees_scored": 1, "solved": 0}, {"trees_scored": 0}
    attempts = [("a", solved), ("a", failed), ("b", failed), ("b", failed), ("c", unscored)]
    assert count_tasks(attempts) == {"trees": 3, "trees_scored": 2, "solved": 1}


def test_shares_are_of_what_was_scored():
    assert ratios(counted(rescued())) == {
        "task_success": 1.0,
        "attempt_success": 0.5,
        "branch_improved": 1.0,
        "branch_success": 1.0,
        "branch_success_depth_1": 1.0,
        "branch_success_parsed": 1.0,
        "reflection_parsed": 0.5,
    }


def test_reflection_agreement_is_the_share_of_pairs_that_name_the_same_step():
    named = iter([2, 2, 3, "no idea"])

    def reflect(messages, t):
        step = next(named)
        return reflection(step, "try again") if isinstance(step, int) else step

    policy = ScriptedPolicy({"0": "L"}, reflect)
    counts = counted(grow(policy, budget={"depth": 1}, reflection={"samples": 4}))
    assert (counts["reflection_pairs"], counts["reflection_pairs_agreed"]) == (3, 1)
    assert ratios(counts)["reflection_agreement"] == pytest.approx(1 / 3)


class CachingPolicy(ScriptedPolicy):
    """Reports how many tokens each prompt shares with the beginning of an earlier prompt and its answer."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.read = []

    async def act(self, history, request):
        return self.with_prompt(history, await super().act(history, request))

    async def reflect(self, history, schema, request):
        return self.with_prompt(history, await super().reflect(history, schema, request))

    def with_prompt(self, history, turn):
        cached = max((len(os.path.commonprefix([history.token_ids, each])) for each in self.read), default=0)
        self.read.append(history.token_ids + turn.token_ids)
        return dataclasses.replace(turn, prompted=PromptUsage(len(history.token_ids), cached))


def test_only_the_last_message_of_a_prompt_is_read_anew():
    policy = CachingPolicy({"0": "L"}, {4: reflection(3, "go")})
    tree = grow(policy, budget={"depth": 1})
    counts = counted(tree)
    (_, looking_back), told = policy.reflection_prompts[0], policy.prompts[4]
    last = looking_back.messages[-1]["content"]
    assert counts["prompt_tokens/reflect"] == len(looking_back.token_ids)
    assert len(looking_back.token_ids) - counts["cached_tokens/reflect"] == len((USER, *tokens(last), END, ASSISTANT))
    first, note = tree.attempts[1].steps[0].action.prompted, told.messages[-1]["content"].removeprefix("0")
    assert first.num_tokens - first.num_cached == len((*tokens(note), END, ASSISTANT))
    assert set(ratios(counts)) > {"prefix_cache/explore", "prefix_cache/reflect", "prefix_cache/branch"}


def test_an_engine_that_does_not_say_what_it_cached_is_not_counted():
    counts = counted(rescued())
    assert not [name for name in counts if "_tokens/" in name]
    assert not [name for name in ratios(counts) if name.startswith("prefix_cache")]


def test_reflections_after_different_steps_are_not_compared():
    policy = ScriptedPolicy({"0": "L"}, {2: reflection(1, "a"), 4: reflection(1, "b")})
    counts = counted(grow(policy, budget={"depth": 1}, reflection={"interval": 2}))
    assert counts["reflections_parsed"] == 2
    assert counts["reflection_pairs"] == 0


@pytest.mark.parametrize(
    ("action", "shares"),
    [("Q", {"task_success": 0.0, "attempt_success": 0.0}), ("!", {})],
)
def test_a_share_of_nothing_is_absent_and_one_of_failures_is_zero(action, shares):
    assert ratios(counted(grow(ScriptedPolicy({"0": action}), budget={"depth": 0}))) == shares
    assert ratios({}) == {}
