"""Failed histories: which are drawn, how an attempt goes on from one, and what is counted as its own."""

from __future__ import annotations

import asyncio
import dataclasses
from unittest.mock import patch

import pytest

from fakes import (
    ASSISTANT,
    END,
    TASK,
    USER,
    Corridor,
    DriftingCorridor,
    ReplayCorridor,
    ScriptedPolicy,
    World,
    call_inline,
    grow,
    tokens,
    turn,
)
from leafe_verl.core import Branch, ExplorationTree, Explorer, History, Outcome, Reflection, Settings, StepRecord
from leafe_verl.core.given import GivenHistory, choose_histories, count_after_given, failed_beginnings
from leafe_verl.core.recovery_figures import plain_attempts
from leafe_verl.core.statistics import count
from leafe_verl.core.tree import Attempt


def step(text, *, failed=True, observation="no", command=None, opening="0"):
    history = History((1,), ({"role": "user", "content": opening},))
    return StepRecord(history, turn(text), observation, 0.0, False, None, command=command, failed=failed)


def tree_of(*attempts, given=()):
    tree = ExplorationTree(TASK, given)
    tree.attempts += attempts
    return tree


def root(*steps, outcome=Outcome.HORIZON):
    return Attempt(None, steps, outcome)


def history(text, *, task=TASK, command=None):
    return GivenHistory(task, (step(text, command=command),), 0)


# --- Which histories there are ---


def test_a_history_ends_with_the_turn_that_has_failed():
    tree = tree_of(root(step("a"), step("b", failed=False), step("c")), root(step("d", failed=None), step("e")))
    texts = {t: [[s.action.text for s in found] for found in failed_beginnings(tree, t)] for t in (1, 2, 3, 4)}
    assert texts == {1: [["a"]], 2: [["d", "e"]], 3: [["a", "b", "c"]], 4: []}


def test_a_turn_that_ended_its_task_leaves_nothing_to_go_on_with():
    lost, late = root(step("a"), outcome=Outcome.FAILURE), root(step("b"), outcome=Outcome.HORIZON)
    broken = root(step("c"), outcome=Outcome.POLICY_FAILURE)
    assert [found[0].action.text for found in failed_beginnings(tree_of(lost, late, broken), 1)] == ["b", "c"]
    assert list(failed_beginnings(tree_of(root(step("a"), step("b"), outcome=Outcome.FAILURE)), 1)), "it went on"


def test_neither_branches_nor_attempts_from_given_histories_are_taken():
    branch = Attempt(Branch(0, 1, 1, Reflection(1, "e", True, "", 0)), (step("b"),), Outcome.HORIZON)
    tree = tree_of(root(step("a", failed=False)), branch)
    assert not list(failed_beginnings(tree, 1))
    assert not list(failed_beginnings(tree_of(root(step("a")), given=(step("g"),)), 1))


def test_programs_that_differ_are_preferred_and_equal_histories_count_once():
    found = [history("same", command="p"), history("same, in other words", command="p"), history("other", command="q")]
    for seed in range(8):
        chosen = choose_histories([*found, *found], 2, seed)
        assert sorted(each.steps[0].command for each in chosen) == ["p", "q"]
    assert len(choose_histories([*found, *found], 9, 0)) == 3


def test_the_draw_depends_on_the_seed_and_not_on_the_order():
    found = [history(str(number)) for number in range(20)]
    keys = [each.key for each in choose_histories(found, 4, 0)]
    assert keys == [each.key for each in choose_histories(found[::-1], 4, 0)] == sorted(keys)
    assert keys != [each.key for each in choose_histories(found, 4, 1)]
    assert set(keys) < {each.key for each in choose_histories(found, 8, 0)}, "more histories include the fewer"


def test_the_key_names_task_actions_and_observations():
    known = history("a")
    others = [
        dataclasses.replace(known, task=dataclasses.replace(TASK, key="other")),
        history("b"),
        dataclasses.replace(known, steps=(step("a", observation="yes"),)),
        dataclasses.replace(known, steps=(step("a"), step("a"))),
    ]
    assert len({known.key, *(each.key for each in others)}) == 5
    assert known.key == dataclasses.replace(known, seed=3).key == history("a", command="ran").key
    assert history("lone \ud83d").key


# --- Going on from one ---


def recorded(world, actions="RL", **settings):
    """The path of an attempt through the corridor, as a store holds it: without snapshots."""
    path = grow(ScriptedPolicy(lambda m: actions[len(m) // 2]), world, budget={"depth": 0}, **settings).path(0)
    return tuple(dataclasses.replace(each, snapshot=None) for each in path)


def go_on(policy, world, given, *, playbook="", **settings):
    async def play():
        slots = asyncio.Semaphore(4)
        explorer = Explorer(world, policy, Settings.from_mapping(settings), slots, playbook)
        return await asyncio.wait_for(explorer.attempt(TASK, given=given), 20)

    with patch("leafe_verl.core.attempt.call_within", call_inline):
        attempt = asyncio.run(play())
    tree = ExplorationTree(TASK, given.steps)
    tree.add(attempt)
    return tree


@pytest.mark.parametrize("kind", [Corridor, ReplayCorridor])
def test_an_attempt_plays_on_after_the_given_turns(kind):
    steps = recorded(World(kind), "RLRR", environment={"horizon": 2})
    world, policy = World(kind), ScriptedPolicy(lambda messages: "R")
    tree = go_on(policy, world, GivenHistory(TASK, steps, 7), environment={"horizon": 5})
    (attempt,) = tree.attempts
    assert [s.action.text for s in attempt.steps] == ["R", "R", "R"] and attempt.outcome is Outcome.SUCCESS
    assert [s.action.text for s in tree.path(0)] == ["R", "L", "R", "R", "R"]
    assert world.ledger.seeds == [7], "the seed is that of the recording"
    assert (attempt.replayed_steps, tree.total_return(0)) == (2, 3.0)
    counts = count(tree, [])
    assert (counts["environment_steps"], counts["replayed_steps"]) == (3, 2)
    assert counts["sampled_tokens"] == sum(len(s.action.token_ids) for s in attempt.steps)


def test_the_horizon_counts_the_given_turns():
    steps = recorded(World(), "RL", environment={"horizon": 2})
    tree = go_on(ScriptedPolicy(lambda m: "L"), World(), GivenHistory(TASK, steps, 0), environment={"horizon": 3})
    assert len(tree.attempts[0].steps) == 1 and tree.attempts[0].outcome is Outcome.HORIZON


def test_the_prompt_is_built_by_the_policy_from_what_was_said():
    (first,) = recorded(World(), "R", environment={"horizon": 1})
    # As another tokenizer stored it: neither its tokens nor its system prompt may come into the new prompt.
    opening = ({"role": "system", "content": "theirs"}, *first.history.messages)
    foreign = dataclasses.replace(first, history=History((900, 901), opening))
    policy = ScriptedPolicy(lambda messages: "L")
    go_on(policy, World(), GivenHistory(TASK, (foreign,), 0), playbook="ours", environment={"horizon": 2})
    (prompt,) = policy.prompts
    assert [m["content"] for m in prompt.messages] == ["ours", "0", "R", "1"]
    after = (USER, *tokens("0"), END, ASSISTANT, *foreign.action.token_ids, USER, *tokens("1"), END, ASSISTANT)
    assert prompt.token_ids[-len(after) :] == after and 900 not in prompt.token_ids


def test_a_window_moves_over_given_turns():
    steps = recorded(World(), "RLRL", environment={"horizon": 4})
    policy, settings = ScriptedPolicy(lambda messages: "L"), {"context": {"window": 2, "stride": 1}}
    go_on(policy, World(), GivenHistory(TASK, steps, 0), environment={"horizon": 5}, **settings)
    own = ScriptedPolicy(lambda messages: "RLRLL"[len(own.prompts) - 1])
    grow(own, World(), budget={"depth": 0}, environment={"horizon": 5}, **settings)
    assert policy.prompts == own.prompts[-1:], "it reads what it would have read, had it acted so itself"


def test_a_replay_that_diverges_leaves_the_attempt_unscored():
    world = World(DriftingCorridor)
    steps = recorded(world, "R", environment={"horizon": 1})
    policy = ScriptedPolicy(lambda messages: "R")
    tree = go_on(policy, world, GivenHistory(TASK, steps, 0), environment={"horizon": 3})
    (attempt,) = tree.attempts
    assert attempt.outcome is Outcome.REPLAY_DIVERGENCE and not attempt.steps and not policy.requests
    assert "after 1 replayed actions" in attempt.error
    assert set(count_after_given(tree).values()) == {0}


# --- What is counted ---


@pytest.mark.parametrize(
    "own, outcome, counted",
    [
        ([step("new", failed=False)], Outcome.SUCCESS, (1, 1, 0)),
        ([step("old"), step("new", failed=False)], Outcome.SUCCESS, (1, 0, 1)),
        ([step("in words", command="old")], Outcome.HORIZON, (1, 0, 1)),
        ([step("new")], Outcome.FAILURE, (1, 0, 0)),
        ([step("old")], Outcome.POLICY_FAILURE, (0, 0, 0)),
    ],
)
def test_the_turn_after_the_given_one_is_counted(own, outcome, counted):
    tree = tree_of(root(*own, outcome=outcome), given=(step("first"), step("old")))
    assert tuple(count_after_given(tree).values()) == counted


def test_given_histories_are_no_failures_of_the_policy_itself():
    own = (step("a"), step("b"))
    assert len(plain_attempts(tree_of(root(*own)))) == 1
    assert plain_attempts(tree_of(root(*own), given=(step("g"),))) == ()
