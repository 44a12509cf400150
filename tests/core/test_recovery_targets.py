"""Recovery targets: which pairs of a failed turn and an action are executed, and what the environment says to them."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import threading
from collections import Counter

import pytest

from fakes import ScriptedPolicy, experience_in, grow, reflection, turns_in
from leafe_verl.core import ExplorationTree, Kind, Outcome, Settings, Task, build_examples
from leafe_verl.core.environment_calls import call_within
from leafe_verl.core.recovery_targets import distinct_failures, distinct_successes
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.core.statistics import count, ratios
from quiz import RIGHT, Quiz, confirm, played


class TestPairs:
    def test_a_success_elsewhere_is_executed_after_a_failed_turn(self):
        tree = played(["x", "y"], ["a"])
        assert confirm(tree) == [(0, 2, 1, "success")]

    def test_trees_without_success_or_without_failure_have_none(self):
        assert confirm(played(["x", "y"], ["z", "y"])) == confirm(played(["a"], ["b"])) == []
        assert confirm(ExplorationTree(Task("empty", "", "quiz", RIGHT))) == []

    def test_a_failed_turn_without_a_history_after_it_is_no_place(self):
        assert distinct_failures(played(["x"], ["x", "y", "z"], ["a"])) == [(1, 2), (1, 3)]

    def test_what_the_same_programs_lead_to_counts_once(self):
        tree = played(["x#1", "y"], ["x#2", "z"], ["a#1"], ["a#2"], ["b"])
        assert (distinct_failures(tree), distinct_successes(tree, incomplete=False)) == ([(0, 2)], [2, 4])
        assert sorted(confirm(tree)) == [(0, 2, 2, "success"), (0, 2, 4, "success")]

    def test_an_action_without_a_command_is_its_own_program(self):
        step = played(["x", "y"]).path(0)[0]
        assert step.executed == "x" and dataclasses.replace(step, command=None).executed == "x"

    def test_the_failed_action_itself_is_never_a_target(self):
        # "a" is wrong after "x" and right before it.
        tree = played(["x", "a", "y"], ["a"], data={"right": ["a"], "spoiled": {"a": "x"}})
        assert distinct_failures(tree) == [(0, 2), (0, 3)]
        assert confirm(tree) == [(0, 2, 1, "horizon")]

    def test_an_action_that_the_limit_cut_is_a_target_by_a_setting_alone(self):
        tree = played(["x", "y"], ["a"])
        (step,) = tree.attempts[1].steps
        cut = dataclasses.replace(step, action=dataclasses.replace(step.action, complete=False))
        tree.attempts[1] = dataclasses.replace(tree.attempts[1], steps=(cut,))
        assert confirm(tree) == []
        assert confirm(tree, distillation={"incomplete_actions": True}) == [(0, 2, 1, "success")]

    def test_an_unscored_attempt_has_no_place(self):
        tree = played(["x", "y"], ["a"])
        tree.attempts[0] = dataclasses.replace(tree.attempts[0], outcome=Outcome.POLICY_TIMEOUT)
        assert confirm(tree) == []

    def test_a_branch_has_a_success_but_no_place_of_its_own(self):
        def act(messages):
            told = experience_in(messages)
            return "x" if told is None else "ya"[turns_in(messages)]

        tree = grow(
            ScriptedPolicy(act, {2: reflection(1, "e")}),
            Quiz,
            task=Task("quiz", "", "quiz", RIGHT),
            environment={"horizon": 2},
            budget={"depth": 1},
        )
        assert [step.action.text for step in tree.path(1)] == ["y", "a"]
        assert distinct_failures(tree) == [(0, 2)] and distinct_successes(tree, incomplete=False) == [1]
        assert confirm(tree) == [(0, 2, 1, "success")]


class TestDraws:
    ROOTS = (["x", "-"], ["y", "-"], ["z", "-"], ["a"], ["b"], ["c"])

    @pytest.mark.parametrize("seed", range(5))
    def test_failed_turns_and_actions_are_used_evenly(self, seed):
        roots = self.ROOTS if seed % 2 else self.ROOTS[:-1]
        for targets in range(3, 7):
            drawn = confirm(played(*roots), targets, seed=seed)
            assert len(drawn) == targets
            for column in (0, 2):
                uses = Counter(pair[column] for pair in drawn).values()
                assert max(uses) - min(uses) <= 1

    def test_no_pair_is_drawn_twice(self):
        drawn = confirm(played(*self.ROOTS), 99)
        assert len({pair[:3] for pair in drawn}) == len(drawn) == 9

    def test_the_seed_and_the_task_s_key_decide(self):
        def drawn(seed, key):
            return tuple(confirm(played(*self.ROOTS, key=key), 2, seed=seed))

        assert drawn(0, "quiz") == drawn(0, "quiz")
        assert len({drawn(seed, "quiz") for seed in range(10)}) > 3
        assert len({drawn(0, key) for key in "abcdefghij"}) > 3
        assert drawn(0, "\ud83d"), "half an emoji, which UTF-8 cannot hold"

    def test_as_many_are_executed_again_as_were_refused(self):
        # "a" is spoiled after "x", "y" and "z"; "b" and "c" never are.
        data = {"right": ["a", "b", "c"], "spoiled": {"a": "x"}}
        drawn = confirm(played(["x", "-"], ["a"], ["b"], ["c"], data=data), 2)
        assert [pair[3] for pair in drawn].count("success") == 2
        assert {pair[2] for pair in drawn if pair[3] == "success"} == {2, 3}

    def test_at_most_twice_as_many_are_executed_as_are_wanted(self):
        words = [str(number) for number in range(9)]
        tree = played(
            ["x", "-"], *([word] for word in words), data={"right": words, "spoiled": dict.fromkeys(words, "x")}
        )
        assert [pair[3] for pair in confirm(tree, 3)] == ["horizon"] * 6

    def test_confirmed_or_not_the_tree_stays_as_it_was(self):
        tree = played(*self.ROOTS)
        before = list(tree.attempts)
        confirm(tree, 9)
        assert tree.attempts == before

    @pytest.mark.parametrize("seed", range(20))
    def test_ragged_trees(self, seed):
        dice = random.Random(seed)
        words = "abcxyz"
        walks = [[dice.choice(words) for _ in range(dice.randint(1, 4))] for _ in range(8)]
        data = {"right": list("abc"), "spoiled": {"a": "x", "b": "y"}}
        tree = played(*walks, data=data)
        confirm(tree, 3, seed=seed)
        for recovery in tree.recovery_targets:
            said = [step.action.text for step in tree.path(recovery.attempt)[: recovery.step - 1]]
            word = tree.path(recovery.source)[-1].action.text
            assert tree.path(recovery.attempt)[recovery.step - 2].failed and word != said[-1]
            assert recovery.confirmed == (data["spoiled"].get(word) not in said)
        assert sum(recovery.confirmed for recovery in tree.recovery_targets) <= 3


class TestExecution:
    def test_a_tree_from_a_store_is_replayed(self):
        tree = played(["x", "y", "z"], ["a"])
        for index, attempt in enumerate(tree.attempts):
            steps = tuple(dataclasses.replace(step, snapshot=None) for step in attempt.steps)
            tree.attempts[index] = dataclasses.replace(attempt, steps=steps)
        assert sorted(confirm(tree)) == [(0, 2, 1, "success"), (0, 3, 1, "success")]
        assert sorted(recovery.replayed_steps for recovery in tree.recovery_targets) == [1, 2]

    def test_a_replay_that_diverges_is_unscored_and_no_target(self):
        class Other(Quiz):
            def step(self, action):
                return super().step(action)._replace(observation="other")

        tree = played(["x", "y"], ["a"])
        steps = tuple(dataclasses.replace(step, snapshot=None) for step in tree.attempts[0].steps)
        tree.attempts[0] = dataclasses.replace(tree.attempts[0], steps=steps)
        assert confirm(tree, environment=Other) == [(0, 2, 1, "replay_divergence")]
        counts = count(tree, [])
        assert (counts["confirmations"], counts["confirmations_unscored"]) == (0, 1)

    def test_a_hanging_environment_ends_its_confirmation_alone(self):
        class Hanging(Quiz):
            def __init__(self):
                self.released = threading.Event()

            def step(self, action):
                if action == "a":
                    self.released.wait()
                return super().step(action)

            def close(self):
                self.released.set()

        async def impatient(seconds, what, function, *arguments, thread):
            return await call_within(0.01 if "a" in arguments else seconds, what, function, *arguments, thread=thread)

        tree = played(["x", "y"], ["a"], ["b"])
        found = confirm(tree, environment=Hanging, call=impatient)
        assert sorted(found) == [(0, 2, 1, "environment_timeout"), (0, 2, 2, "success")]

    def test_none_begins_after_a_stop(self):
        stop = asyncio.Event()
        stop.set()
        tree = played(["x", "y"], ["a"])
        assert confirm(tree, stop=stop) == [] and tree.recovery_targets is None

    def test_a_stop_interrupts_those_that_run_and_draws_no_others(self):
        stop = asyncio.Event()

        class Stopping(Quiz):
            def step(self, action):
                stop.set()
                return super().step(action)

        data = {"right": ["a", "b", "c"], "spoiled": dict.fromkeys("abc", "x")}
        tree = played(["x", "-"], ["a"], ["b"], ["c"], data=data)
        assert len(confirm(tree, 1, environment=Stopping, stop=stop)) == 1

    @pytest.mark.parametrize("method", ["leafe", "early_experience"])
    def test_early_experience_has_none(self, method):
        tree = played(["x", "y"], ["a"])
        assert len(confirm(tree, distillation={"method": method})) == (method == "leafe")

    def test_zero_targets_are_not_looked_for(self):
        tree = played(["x", "y"], ["a"])
        assert confirm(tree, 0) == [] and tree.recovery_targets is None


class TestBudget:
    def explored(self, steps, targets, roots=4):
        """Roots that say x and y, or a, by turns."""
        walks = iter(["x", "a"] * roots)

        def act(messages):
            if turns_in(messages):
                return "y"
            return next(walks)

        return grow(
            ScriptedPolicy(act),
            Quiz,
            roots=roots,
            task=Task("quiz", "", "quiz", RIGHT),
            environment={"horizon": 2},
            budget={"depth": 0, "environment_steps": steps},
            distillation={"recovery_targets": targets},
        )

    @pytest.mark.parametrize("steps", range(3, 12))
    @pytest.mark.parametrize("targets", [1, 2])
    def test_holds_the_confirmations_too(self, steps, targets):
        tree = self.explored(steps, targets)
        explored = sum(len(attempt.steps) for attempt in tree.attempts)
        assert explored <= steps - targets
        assert tree.environment_steps == count(tree, [])["environment_steps"] <= steps

    def test_of_steps_must_leave_some_to_explore(self):
        with pytest.raises(ValueError, match=r"environment_steps is 4; expected more than the 4 that leafe\.dist"):
            Settings.from_mapping({"budget": {"environment_steps": 4}, "distillation": {"recovery_targets": 4}})
        early = {"recovery_targets": 4, "method": "early_experience"}
        Settings.from_mapping({"budget": {"environment_steps": 1}, "distillation": early})

    def test_that_exploring_has_used_up_leaves_none(self):
        tree = played(["x", "y"], ["a"], ["b"])
        assert confirm(tree, 3, budget={"environment_steps": 4}) == []
        assert len(confirm(tree, 3, budget={"environment_steps": 5})) == 1


def test_counts_include_the_confirmations():
    data = {"right": ["a", "b"], "spoiled": {"a": "x"}}
    tree = played(["x", "y"], ["a"], ["b"], data=data)
    confirm(tree)
    counts = count(tree, build_examples(tree, DistillationSettings(recovery_targets=4), seed=0))
    named = ("confirmations", "confirmations_confirmed", "confirmations_unscored", "environment_steps")
    assert [counts[name] for name in named] == [2, 1, 0, 4 + 2]
    assert counts[f"examples/{Kind.RECOVERY.value}"] == 1
    assert ratios(counts)["confirmation_success"] == 0.5
