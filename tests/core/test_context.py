"""The context window: what the prompts of a long attempt contain, and that they are what is trained on."""

from __future__ import annotations

import dataclasses
import itertools
from unittest.mock import patch

import pytest

from fakes import (
    TASK,
    Corridor,
    ScriptedPolicy,
    World,
    experience_in,
    grow,
    observation_in,
    reflection,
    text_of,
    turn,
    wandering,
)
from leafe_verl.core import ExplorationTree, History, Kind, Outcome, StepRecord, build_examples
from leafe_verl.core.context import ARROW, HEADING, PromptNote, num_summarised, summarise, window_moves
from leafe_verl.core.settings import ContextSettings, DistillationSettings
from leafe_verl.core.token_sequences import build_sequence, split_at_new_prompts

LONG = dataclasses.replace(TASK, data={"goal": 6})
ALL = DistillationSettings(events="every", events_per_task=99, rehearsal_share=1.0)


def walk(policy: ScriptedPolicy | None = None, horizon: int = 6, **settings) -> tuple[ExplorationTree, ScriptedPolicy]:
    """Walk six cells to the right, or as the given policy does."""
    policy = policy or ScriptedPolicy(lambda messages: "R")
    settings = {"budget": {"depth": 0}, "environment": {"horizon": horizon}, **settings}
    return grow(policy, task=LONG, **settings), policy


def contents(history: History) -> list[str]:
    return [message["content"] for message in history.messages]


def opening(*lines: str, turns: int, feedback: str) -> str:
    return (
        f"0\n\n{HEADING}\n" + "\n".join(lines) + f"\n\nThe feedback to turn {turns} in full, after which comes "
        f"turn {turns + 1}:\n{feedback}"
    )


class TestPrompt:
    def test_without_a_window_holds_everything(self):
        tree, policy = walk()
        assert contents(policy.prompts[-1]) == ["0", "R", "1", "R", "2", "R", "3", "R", "4", "R", "5"]
        assert len(split_at_new_prompts(tree.path(0))) == 1

    def test_with_a_window_holds_the_last_steps_and_a_line_for_each_before(self):
        _, policy = walk(context={"window": 2})
        assert [contents(prompt) for prompt in policy.prompts] == [
            ["0"],
            ["0", "R", "1"],
            ["0", "R", "1", "R", "2"],
            [opening("1. R", turns=1, feedback="1"), "R", "2", "R", "3"],
            [opening("1. R -> 1", "2. R", turns=2, feedback="2"), "R", "3", "R", "4"],
            [opening("1. R -> 1", "2. R -> 2", "3. R", turns=3, feedback="3"), "R", "4", "R", "5"],
        ]

    def test_with_an_empty_window_is_one_message(self):
        _, policy = walk(context={"window": 0}, horizon=3)
        assert [contents(prompt) for prompt in policy.prompts] == [
            ["0"],
            [opening("1. R", turns=1, feedback="1")],
            [opening("1. R -> 1", "2. R", turns=2, feedback="2")],
        ]

    def test_keeps_the_system_prompt(self):
        class Talking(Corridor):
            system_prompt = "Walk."

        policy = ScriptedPolicy(lambda messages: "R")
        settings = {"context": {"window": 1}, "environment": {"horizon": 5}, "budget": {"depth": 0}}
        grow(policy, World(Talking), task=LONG, **settings)
        assert all(prompt.messages[0] == {"role": "system", "content": "Walk."} for prompt in policy.prompts)
        assert [len(prompt.messages) for prompt in policy.prompts] == [2, 4, 4, 4, 4]

    def test_shares_its_beginning_for_as_many_steps_as_the_stride(self):
        settings = ContextSettings(window=1, stride=3)
        assert [num_summarised(steps, settings) for steps in range(9)] == [0, 0, 0, 0, 3, 3, 3, 6, 6]
        tree, _ = walk(context={"window": 1, "stride": 3})
        assert [list(run) for run in split_at_new_prompts(tree.path(0))] == [[0, 1, 2, 3], [4, 5]]

    def test_stays_small_however_long_the_attempt_is(self):
        policy = ScriptedPolicy(lambda messages: "L")
        with patch("leafe_verl.core.context.SUMMARY_CHARACTERS", 200):
            walk(policy, horizon=60, context={"window": 2})
        assert max(len(prompt.token_ids) for prompt in policy.prompts) < 400

    def test_holds_the_actions_as_they_were_sampled(self):
        _, policy = walk(context={"window": 1})
        assert text_of(policy.prompts[-1].token_ids).endswith("\n4<end><a>R<end><u>5<end><a>")


class TestSummary:
    def steps(self, *told: tuple[str, str], commands: bool = False) -> list[StepRecord]:
        nothing = History((1,), ())
        return [
            StepRecord(nothing, turn(f"Thought: hm.\nAction: {action}"), feedback, 0.0, False, None,
                       action if commands else None)
            for action, feedback in told
        ]  # fmt: skip

    def test_names_what_was_executed_where_the_environment_says_it(self):
        told = [("open door", "\n  The door is open.\nYou see a hall."), ("go", "A hall.")]
        assert summarise(self.steps(*told, commands=True)) == ("1. open door -> The door is open.\n2. go")
        assert summarise(self.steps(*told)).startswith("1. Thought: hm. Action: open door -> The")

    def test_reads_the_executed_action_from_the_environment(self):
        class Telling(Corridor):
            def step(self, action):
                step = super().step(action)
                return step._replace(info={**step.info, "action": f"go {action}"})

        policy = ScriptedPolicy(lambda messages: "R")
        settings = {"context": {"window": 0}, "environment": {"horizon": 3}, "budget": {"depth": 0}}
        tree = grow(policy, World(Telling), task=LONG, **settings)
        assert tree.attempts[0].steps[0].command == "go R"
        assert "1. go R -> 1\n2. go R\n" in contents(policy.prompts[-1])[0]

    @pytest.mark.parametrize("number", [1, 2, 10, 100])
    @pytest.mark.parametrize("characters", [1, 50, 400, 3000])
    def test_is_no_longer_than_its_limit(self, number, characters):
        steps = self.steps(*[("a" * 500, "b" * 500)] * number)
        with patch("leafe_verl.core.context.SUMMARY_CHARACTERS", characters):
            summary = summarise(steps)
        assert len(summary) <= characters
        assert all(len(line) <= 160 for line in summary.splitlines())

    def test_names_every_turn_when_there_are_many(self):
        lines = summarise(self.steps(*[("go north", "You are there.")] * 50)).splitlines()
        assert [line.partition(". ")[0] for line in lines] == [str(number) for number in range(1, 51)]
        assert all(ARROW in line for line in lines[:-1])

    def test_has_the_note_before_the_step_it_was_given_at(self):
        lines = summarise(self.steps(("a", "1"), ("b", "2")), PromptNote(2, "mind the gap")).splitlines()
        assert lines[1] == "Before turn 2: mind the gap"


class TestExperience:
    def advised(self, window: int, scope: str = "attempt") -> tuple[ExplorationTree, ScriptedPolicy]:
        """Jump into the pit at step 2; then, after a reflection, walk to the end."""

        def act(messages):
            return "R" if experience_in(messages) or observation_in(messages) != "1" else "J"

        policy = ScriptedPolicy(act, {7: reflection(2, "do not jump")})
        settings = {"budget": {"depth": 1}, "reflection": {"scope": scope}, "context": {"window": window}}
        return walk(policy, horizon=7, **settings)

    @pytest.mark.parametrize("window", [1, 2, 3])
    def test_stays_to_the_end_though_its_step_has_left_the_window(self, window):
        tree, policy = self.advised(window)
        assert [attempt.outcome for attempt in tree.attempts] == [Outcome.HORIZON, Outcome.SUCCESS]
        prompts = policy.prompts[7:]
        assert len(prompts) == 5 and all(experience_in(prompt.messages) for prompt in prompts)
        assert "Before turn 2: Advice" in contents(prompts[-1])[0]

    def test_leaves_after_one_step_if_its_scope_is_step(self):
        _, policy = self.advised(2, scope="step")
        assert [bool(experience_in(prompt.messages)) for prompt in policy.prompts[7:10]] == [True, False, False]

    @pytest.mark.parametrize("window", [0, 1, 2])
    def test_is_in_no_recorded_history_no_reflection_prompt_and_no_example(self, window):
        policy = wandering(window)
        tree = grow(policy, roots=2, context={"window": window}, **DEEP)
        recorded = [step.history for attempt in tree.attempts for step in attempt.steps]
        assert len(tree.branches()) >= 5
        for history in [*recorded, *(prompt for _, prompt in policy.reflection_prompts)]:
            assert experience_in(history.messages) is None
        for example in build_examples(tree, ALL, seed=0):
            assert "advice" not in text_of(example.sequence.token_ids).lower()


DEEP = {"budget": {"attempts": 14, "depth": 3}, "reflection": {"interval": 2}, "environment": {"horizon": 7}}


class TestReflection:
    def test_sees_the_prompt_of_the_next_step_with_every_turn_named(self):
        policy = ScriptedPolicy(lambda messages: "L", {6: reflection(2, "go right")})
        tree, _ = walk(policy, budget={"depth": 1}, context={"window": 1})
        ((_, prompt),) = policy.reflection_prompts
        first, action, last = contents(prompt)
        assert [line.partition(".")[0] for line in first.splitlines() if ". L" in line] == list("12345")
        assert "after which comes turn 6" in first and action == "L"
        assert last.startswith("0\n\nStop here and look back: which turn, from 1 to 6, was")
        assert tree.attempts[1].branch.step == 2

    def test_extends_the_prompt_while_the_window_stays(self):
        policy = ScriptedPolicy(lambda messages: "L")
        tree, _ = walk(policy, horizon=2, budget={"depth": 1}, context={"window": 2})
        _, prompt = policy.reflection_prompts[0]
        history = tree.attempts[0].steps[-1].history
        assert prompt.token_ids[: len(history.token_ids)] == history.token_ids


class TestExamples:
    @pytest.mark.parametrize(("window", "stride"), [(0, 1), (1, 1), (2, 2), (1, 3)])
    @pytest.mark.parametrize("target", ["action", "suffix"])
    def test_hold_prompts_that_were_seen_and_every_action_once(self, window, stride, target):
        policy = wandering(window + stride)
        tree = grow(policy, roots=2, context={"window": window, "stride": stride}, **DEEP)
        settings = ALL.model_copy(update={"target": target, "incomplete_actions": True})
        examples = build_examples(tree, settings, seed=0)
        assert {example.kind for example in examples} == {Kind.COUNTERFACTUAL, Kind.REHEARSAL}
        for (kind, index), group in itertools.groupby(examples, key=lambda example: (example.kind, example.attempt)):
            path, trained = tree.path(index), []
            for example in group:
                assert not any(example.sequence.mask[: example.sequence.prompt_length])
                trained += trained_in(example.sequence)
            first = 1 if kind is Kind.REHEARSAL else tree.attempts[index].branch.step
            last = first if (kind, target) == (Kind.COUNTERFACTUAL, "action") else len(path)
            assert trained == [(s.history.token_ids, s.action.token_ids) for s in path[first - 1 : last]]
        seen = {prompt.token_ids for prompt in policy.prompts}
        roots = [attempt for attempt in tree.attempts if attempt.branch is None]
        assert all(step.history.token_ids in seen for root in roots for step in root.steps)

    def test_are_as_many_as_prompts_that_were_built_anew(self):
        tree, _ = walk(context={"window": 2})
        examples = [example for example in build_examples(tree, ALL, seed=0) if example.kind is Kind.REHEARSAL]
        # Steps 1 to 3 go on from one another; from the fourth on the window moves each time.
        assert [(example.step, sum(example.sequence.mask)) for example in examples] == [(1, 6), (4, 2), (5, 2), (6, 2)]

    def test_a_template_that_rewrites_turns_is_refused_between_two_moves_of_the_window(self):
        tree, _ = walk(context={"window": 2})
        first, second, *_ = tree.path(0)
        shorter = dataclasses.replace(second.history, token_ids=second.history.token_ids[6:])
        with pytest.raises(ValueError, match="the chat template rewrote them"):
            build_sequence([first, dataclasses.replace(second, history=shorter)])

    @pytest.mark.parametrize(("window", "stride"), [(0, 1), (1, 1), (2, 2)])
    def test_predict_every_observation_once_in_early_experience(self, window, stride):
        method = {"method": "early_experience"}
        tree, _ = walk(context={"window": window, "stride": stride}, distillation=method)
        settings = ALL.model_copy(update={"method": "early_experience"})
        predicted = [e.sequence for e in build_examples(tree, settings, seed=0) if e.kind is Kind.WORLD_MODEL]
        assert [text_of(tokens) for sequence in predicted for _, tokens in trained_in(sequence)] == [
            f"<u>{cell}<end><a>" for cell in range(1, 7)
        ]
        asked = [before for sequence in predicted for before, _ in trained_in(sequence)]
        assert asked == [step.history.token_ids + step.action.token_ids for step in tree.path(0)]

    def test_an_observation_too_long_for_the_model_is_left_out(self):
        tree, _ = walk(context={"window": 0}, distillation={"method": "early_experience"})
        path = [dataclasses.replace(step, answered=None) for step in tree.path(0)]
        blind = ExplorationTree(LONG)
        blind.add(dataclasses.replace(tree.attempts[0], steps=tuple(path)))
        settings = ALL.model_copy(update={"method": "early_experience"})
        assert [e for e in build_examples(blind, settings, seed=0) if e.kind is Kind.WORLD_MODEL] == []


def trained_in(sequence) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return (tokens before it, its tokens) for every contiguous span that is trained on."""
    position, found = 0, []
    for trained, group in itertools.groupby(sequence.mask):
        begin, position = position, position + len(list(group))
        if trained:
            found.append((sequence.token_ids[:begin], sequence.token_ids[begin:position]))
    return found


@pytest.mark.parametrize("window", [None, 0, 1, 4])
def test_the_window_moves_only_past_its_own_length(window):
    settings = ContextSettings(window=window)
    moves = [steps for steps in range(1, 8) if window_moves(steps, settings)]
    assert moves == ([] if window is None else list(range(window + 1, 8)))
