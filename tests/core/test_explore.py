"""Stage 1: the shape of exploration trees, their budget, and failures."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import threading
from contextlib import suppress

import pytest

from fakes import (
    ASSISTANT,
    END,
    HANG,
    TASK,
    Corridor,
    CrowdedCorridor,
    DriftingCorridor,
    ReplayCorridor,
    ScriptedPolicy,
    World,
    experience_in,
    grow,
    observation_in,
    reflection,
    shape,
    text_of,
    turns_in,
    wandering,
)
from leafe_verl.core import ContextOverflow, Explorer, Outcome, PolicyFailure, PolicyTimeout, Settings, Task
from leafe_verl.core.environment_calls import call_within
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.core.sft_examples import build_examples
from leafe_verl.core.statistics import count
from quiz import RIGHT, Quiz

QUIZ = Task("quiz", "Say it.", "quiz", RIGHT)

EVERY_STEP = {t: reflection(t, f"e{t}") for t in range(1, 10)}
"""Reflections that always name the latest step. With an interval of 1 they give a branch for each step."""


def careless(messages):
    """Jump into the pit at cells 1 and 2, unless the prompt has an experience."""
    told = experience_in(messages) is not None
    return "J" if observation_in(messages) in "12" and not told else "R"


def lazy(messages):
    """Walk left for ever."""
    return "L"


def by_experience(**answers):
    """Walk left, or give the answer for the experience in the prompt, one letter in each turn."""

    def act(messages):
        answer = answers.get(experience_in(messages) or "", "L")
        return answer[turns_in(messages) % len(answer)] if isinstance(answer, str) else answer

    return act


def test_rolling_back_leaves_a_trap():
    policy = ScriptedPolicy(careless, {4: reflection(2, "do not jump")})
    tree = grow(policy)

    assert shape(tree) == [(None, 1, "RJRR", "horizon"), (0, 2, "RR", "success")]
    assert [step.observation for step in tree.path(1)] == ["1", "2", "3"]
    assert [step.reward for step in tree.path(1)] == [1.0, 1.0, 1.0]
    (index, found), branch = tree.reflections[0], tree.attempts[1].branch
    assert (index, found.step, found.experience, found.parsed) == (0, 2, "do not jump", True)
    assert found.text == reflection(2, "do not jump") and found.num_tokens == len(found.text) + 1
    assert branch.reflection is found and branch.depth == 1
    assert [attempt.error for attempt in tree.attempts] == [None, None]


class TestOrder:
    def test_branches_are_served_breadth_first(self):
        tree = grow(
            ScriptedPolicy(lazy, EVERY_STEP),
            roots=2,
            budget={"attempts": 99, "depth": 2},
            reflection={"interval": 2},
        )
        # A branch at step 2 plays steps 2 to 4 and is reflected upon after 2 and 4; one at step 4 after 4 alone.
        assert [attempt.depth for attempt in tree.attempts] == [0] * 2 + [1] * 4 + [2] * 6
        assert [(branch.parent, branch.step) for _, branch in tree.branches()] == [
            *[(0, 2), (0, 4), (1, 2), (1, 4)],
            *[(2, 2), (2, 4), (3, 4), (4, 2), (4, 4), (5, 4)],
        ]
        assert [index for index, _ in tree.reflections] == [branch.parent for _, branch in tree.branches()]

    @pytest.mark.parametrize("seed", range(3))
    def test_delays_do_not_change_the_tree(self, seed):
        settings = {"budget": {"attempts": 12, "depth": 3}, "reflection": {"interval": 2, "branches": 2}}
        plain = grow(wandering(seed), roots=2, slots=1, **settings)
        delayed = [
            grow(wandering(seed, delays=random.Random(n)), roots=2, slots=3, threads=True, **settings) for n in range(2)
        ]

        assert len(plain.attempts) == 12
        for tree in delayed:
            assert tree.attempts == plain.attempts
            assert tree.reflections == plain.reflections

    @pytest.mark.parametrize("seed", range(40))
    def test_delays_do_not_change_what_the_budget_holds(self, seed):
        dice = random.Random(seed)
        settings = {
            "budget": {
                "attempts": dice.randint(1, 16),
                "depth": dice.randint(0, 3),
                "environment_steps": dice.choice([None, None, dice.randint(1, 40)]),
            },
            "reflection": {
                "interval": dice.choice([None, 1, 2]),
                "samples": dice.randint(1, 2),
                "branches": dice.randint(1, 3),
            },
        }
        roots = dice.randint(1, 6)
        plain = grow(wandering(seed), roots=roots, slots=1, **settings)
        for order in range(3):
            tree = grow(wandering(seed, delays=random.Random(order)), roots=roots, **settings)
            assert tree.attempts == plain.attempts
            assert tree.reflections == plain.reflections

    def test_no_roots_give_an_empty_tree(self):
        assert grow(ScriptedPolicy(lazy), roots=0).attempts == []

    def test_the_seed_reaches_the_environment(self):
        world = World()
        grow(ScriptedPolicy(lazy), world, roots=2, seed=7, budget={"depth": 0})
        assert world.ledger.seeds == [7, 7]

    def test_the_system_prompt_comes_first_and_only_if_there_is_one(self):
        class Talking(Corridor):
            system_prompt = "Walk."

        talked, silent = ScriptedPolicy(lazy), ScriptedPolicy(lazy)
        grow(talked, World(Talking), budget={"depth": 0})
        grow(silent, budget={"depth": 0})
        first = {"role": "user", "content": "0"}
        assert talked.prompts[0].messages == ({"role": "system", "content": "Walk."}, first)
        assert silent.prompts[0].messages == (first,)


class Gathering(ScriptedPolicy):
    """Acts on prompts that `concerns` picks only once `expected` of them have been open at the same time."""

    def __init__(self, expected, *script, concerns=lambda messages: True):
        super().__init__(*script)
        self.expected, self.concerns = expected, concerns
        self.waiting, self.gathered = 0, asyncio.Event()

    async def act(self, history, request):
        if self.concerns(history.messages):
            self.waiting += 1
            if self.waiting == self.expected:
                self.gathered.set()
            await self.gathered.wait()
        return await super().act(history, request)


class TestConcurrency:
    def test_roots_overlap(self):
        tree = grow(Gathering(3, lazy), roots=3, slots=1, threads=True, budget={"depth": 0})
        assert len(tree.attempts) == 3

    def test_branches_overlap(self):
        policy = Gathering(4, lazy, EVERY_STEP, concerns=experience_in)
        tree = grow(policy, slots=1, threads=True, budget={"depth": 1}, reflection={"interval": 1})
        assert [attempt.depth for attempt in tree.attempts] == [0, 1, 1, 1, 1]

    @pytest.mark.parametrize(("attempts", "overlap"), [(4, True), (3, False)])
    def test_a_branch_does_not_wait_for_roots_if_the_budget_is_certain_to_hold_it(self, attempts, overlap):
        """The first root, which would have a branch of its own, is delayed until everything else has ended."""
        moves, branched = [], asyncio.Event()

        class Slow(ScriptedPolicy):
            async def act(self, history, request):
                told, first = experience_in(history.messages), request.startswith("attempt 0")
                if request == "attempt 1.0":
                    branched.set()
                if first and not told:
                    with suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(branched.wait(), 20 if overlap else 0.05)
                moves.append(request)
                return await super().act(history, request)

        tree = grow(Slow(lazy, EVERY_STEP), roots=2, budget={"attempts": attempts, "depth": 1})
        assert [attempt.depth for attempt in tree.attempts] == [0, 0, 1, 1][:attempts]
        assert ("attempt 1.0" in moves and moves.index("attempt 1.0") < moves.index("attempt 0")) is overlap

    def test_every_request_names_its_place_in_the_tree(self):
        policy = ScriptedPolicy({"0": "Q"}, lambda messages, t: reflection(1, "go"))
        grow(policy, roots=2, budget={"attempts": 5, "depth": 1}, reflection={"samples": 2})
        attempts = ["attempt 0", "attempt 0.0", "attempt 0.1", "attempt 1", "attempt 1.0"]
        assert sorted(policy.requests) == [*attempts, "reflection 0/0", "reflection 0/1", "reflection 1/0"]

    def test_trees_share_the_environment_slots(self):
        world = World(CrowdedCorridor)

        async def explore_three():
            slots, policy = asyncio.Semaphore(2), Gathering(6, lazy)
            settings = Settings.from_mapping({"budget": {"depth": 0}})
            explorers = [Explorer(world, policy, settings, slots) for _ in range(3)]
            return await asyncio.wait_for(asyncio.gather(*(e.explore(TASK, roots=2) for e in explorers)), 20)

        trees = asyncio.run(explore_three())
        assert [len(tree.attempts) for tree in trees] == [2, 2, 2]
        assert 1 <= world.ledger.peak_running <= 2


class TestBudget:
    @pytest.mark.parametrize("seed", range(12))
    def test_is_never_exceeded(self, seed):
        dice = random.Random(seed)
        budget = {
            "attempts": dice.randint(1, 12),
            "depth": dice.randint(0, 3),
            "environment_steps": dice.choice([None, *range(1, 25)]),
        }
        world = World(dice.choice([Corridor, ReplayCorridor]))
        tree = grow(
            wandering(seed),
            world,
            roots=dice.randint(1, 4),
            budget=budget,
            reflection={"interval": dice.choice([None, 1, 2]), "branches": dice.randint(1, 3)},
        )
        steps = sum(len(attempt.steps) for attempt in tree.attempts)
        assert len(tree.attempts) <= budget["attempts"]
        assert max((attempt.depth for attempt in tree.attempts), default=0) <= budget["depth"]
        assert steps == world.ledger.steps
        assert budget["environment_steps"] is None or steps <= budget["environment_steps"]
        assert world.ledger.replayed == sum(attempt.replayed_steps for attempt in tree.attempts)
        assert world.ledger.made == world.ledger.closed

    def test_roots_count_as_attempts(self):
        tree = grow(ScriptedPolicy(lazy, EVERY_STEP), roots=5, budget={"attempts": 3})
        assert shape(tree) == [(None, 1, "LLLL", "horizon")] * 3

    @pytest.mark.parametrize(("depth", "attempts"), [(0, 1), (1, 2), (2, 3)])
    def test_depth_bounds_the_tree(self, depth, attempts):
        tree = grow(ScriptedPolicy(lazy, EVERY_STEP), budget={"depth": depth})
        assert [attempt.depth for attempt in tree.attempts] == list(range(attempts))

    @pytest.mark.parametrize(
        ("steps", "actions"), [(3, []), (4, ["LLLL"]), (5, ["LLLL", "L"]), (6, ["LLLL", "L", "L"])]
    )
    def test_steps_are_reserved_and_replayed_ones_are_free(self, steps, actions):
        world = World(ReplayCorridor)
        tree = grow(ScriptedPolicy(lazy, EVERY_STEP), world, budget={"environment_steps": steps})
        assert [row[2] for row in shape(tree)] == actions
        assert world.ledger.replayed == 3 * max(0, len(actions) - 1)

    def test_steps_that_an_attempt_did_not_use_go_to_waiting_ones(self):
        # Eight steps reserve two attempts of four; each gives up after one, until all four roots have had a turn.
        tree = grow(ScriptedPolicy({"0": "Q"}), roots=4, budget={"environment_steps": 8, "depth": 0})
        assert shape(tree) == [(None, 1, "Q", "failure")] * 4

    def test_waiting_roots_come_before_branches(self):
        budget = {"environment_steps": 8, "attempts": 4}
        tree = grow(ScriptedPolicy({"0": "Q"}, EVERY_STEP), roots=3, budget=budget)
        assert [row[0] for row in shape(tree)] == [None, None, None, 0]
        assert len(tree.reflections) == 1


class TestReflectionTimes:
    def test_upon_failure_only(self):
        policy = ScriptedPolicy(lazy, EVERY_STEP)
        grow(policy, budget={"depth": 1})
        assert [t for t, _ in policy.reflection_prompts] == [4]

    def test_every_k_steps_and_upon_failure(self):
        policy = ScriptedPolicy(lazy, EVERY_STEP)
        tree = grow(policy, budget={"depth": 1}, reflection={"interval": 3})
        assert [t for t, _ in policy.reflection_prompts] == [3, 4]
        assert [branch.step for _, branch in tree.branches()] == [3, 4]

    def test_a_failure_at_a_multiple_of_k_is_reflected_on_once(self):
        policy = ScriptedPolicy(lazy, EVERY_STEP)
        grow(policy, budget={"depth": 1}, reflection={"interval": 4})
        assert [t for t, _ in policy.reflection_prompts] == [4]

    def test_a_branch_is_reflected_on_after_its_own_steps_only(self):
        policy = ScriptedPolicy(lazy, EVERY_STEP | {4: reflection(3, "e")})
        grow(policy, budget={"depth": 2}, reflection={"interval": 2})
        # The root after 2 and 4; its branch at step 2 after 2 and 4; that at step 3 after 4.
        assert [t for t, _ in policy.reflection_prompts] == [2, 4, 2, 4, 4]

    def test_a_success_is_reflected_on_every_k_steps_but_not_at_its_end(self):
        policy = ScriptedPolicy({"0": "R", "1": "R", "2": "R"}, EVERY_STEP)
        tree = grow(policy, budget={"depth": 1}, reflection={"interval": 1}, environment={"horizon": 9})
        assert shape(tree)[0] == (None, 1, "RRR", "success")
        assert [t for t, _ in policy.reflection_prompts] == [1, 2]

    @pytest.mark.parametrize(
        ("budget", "why"),
        [
            ({"depth": 0}, "final depth"),
            ({"attempts": 1}, "attempts are spent"),
            ({"environment_steps": 4}, "steps are spent"),
        ],
    )
    def test_none_when_no_branch_could_follow(self, budget, why):
        policy = ScriptedPolicy(lazy, EVERY_STEP)
        grow(policy, budget=budget, reflection={"interval": 1})
        assert policy.reflection_prompts == [], why

    @pytest.mark.parametrize("answer", ["!", PolicyFailure("no server")])
    def test_none_for_unscored_attempts(self, answer):
        policy = ScriptedPolicy({"0": "R", "1": answer}, EVERY_STEP)
        tree = grow(policy, reflection={"interval": 1})
        assert [len(attempt.steps) for attempt in tree.attempts] == [1]
        assert policy.reflection_prompts == []

    def test_no_more_than_the_budget_serves(self):
        policy = ScriptedPolicy(lazy, EVERY_STEP)
        tree = grow(policy, roots=3, budget={"attempts": 6, "depth": 1}, reflection={"branches": 2})
        # Three places: two reflections fill them, the second with one of its two branches.
        assert len(policy.reflection_prompts) == 2
        assert [branch.parent for _, branch in tree.branches()] == [0, 0, 1]

    def test_branches_of_one_reflection(self):
        tree = grow(ScriptedPolicy(lazy, EVERY_STEP), budget={"depth": 1}, reflection={"branches": 3})
        assert [branch.parent for _, branch in tree.branches()] == [0, 0, 0]
        assert len({id(branch.reflection) for _, branch in tree.branches()}) == 1
        assert len(tree.reflections) == 1

    def test_the_policy_sees_the_steps_it_is_asked_about(self):
        policy = ScriptedPolicy(careless, {4: reflection(1, "e")})
        tree = grow(policy, budget={"depth": 1})
        ((_, prompt),) = policy.reflection_prompts
        assert [m["content"] for m in prompt.messages if m["role"] == "assistant"] == ["R", "J", "R", "R"]
        assert observation_in(prompt.messages) == "#" and "from 1 to 4" in prompt.messages[-1]["content"]
        last = tree.attempts[0].steps[-1]
        assert prompt.token_ids[: len(last.history.token_ids)] == last.history.token_ids


class TestFallback:
    @pytest.mark.parametrize(
        ("answer", "text"),
        [
            ("no idea", "no idea"),
            (reflection(5, "after the end"), reflection(5, "after the end")),
            (reflection(0, "before the start"), reflection(0, "before the start")),
            (PolicyFailure("no server"), "[no server]"),
            (ContextOverflow("full"), "[full]"),
        ],
    )
    def test_replaces_an_invalid_answer(self, answer, text):
        tree = grow(ScriptedPolicy(careless, {4: answer}), budget={"depth": 1})
        (_, found), branch = tree.reflections[0], tree.attempts[1].branch
        # Step 2 is the jump: the return fell there, and # is what the environment said.
        assert (branch.step, branch.reflection.experience) == (2, "#")
        assert (found.parsed, found.text) == (False, text)
        assert found.num_tokens == (0 if isinstance(answer, Exception) else len(text) + 1)

    def test_replaces_an_answer_when_the_reflection_prompt_does_not_fit(self):
        policy = ScriptedPolicy(careless, {4: reflection(1, "never asked")}, window=60)
        tree = grow(policy, budget={"depth": 1})
        ((_, found),) = tree.reflections
        assert not found.parsed and "window 60" in found.text and found.step == 2
        assert policy.reflection_prompts == []


class TestExperience:
    @pytest.mark.parametrize(("scope", "branch"), [("attempt", "RR"), ("step", "RJR")])
    def test_stays_as_long_as_its_scope(self, scope, branch):
        policy = ScriptedPolicy(careless, {4: reflection(2, "do not jump")})
        tree = grow(policy, budget={"depth": 1}, reflection={"scope": scope})
        assert shape(tree)[1][2] == branch
        seen = [experience_in(prompt.messages) for prompt in policy.prompts[4:]]
        assert seen == (["do not jump"] * 2 if scope == "attempt" else ["do not jump", None, None])

    @pytest.mark.parametrize("tau", [1, 2, 4])
    def test_follows_the_shared_history(self, tau):
        policy = ScriptedPolicy(careless, {4: reflection(tau, "do not jump")})
        tree = grow(policy, budget={"depth": 1})
        prompt, history = policy.prompts[4], tree.attempts[0].steps[tau - 1].history
        assert history.token_ids[-2:] == (END, ASSISTANT)
        kept = len(history.token_ids) - 2
        assert prompt.token_ids[:kept] == history.token_ids[:kept]
        assert text_of(prompt.token_ids[kept:]).startswith("\n\nAdvice") and "do not jump" in text_of(prompt.token_ids)
        assert [m["role"] for m in prompt.messages] == [m["role"] for m in history.messages]

    @pytest.mark.parametrize("scope", ["attempt", "step"])
    @pytest.mark.parametrize("seed", range(2))
    def test_is_in_no_recorded_history_and_no_reflection_prompt(self, scope, seed):
        policy = wandering(seed)
        reflecting = {"scope": scope, "interval": 2}
        tree = grow(policy, roots=2, budget={"attempts": 12, "depth": 3}, reflection=reflecting)
        histories = [step.history for attempt in tree.attempts for step in attempt.steps]
        prompts = [prompt for _, prompt in policy.reflection_prompts]
        assert len(tree.branches()) >= 5
        assert any(experience_in(prompt.messages) for prompt in policy.prompts)
        for history in [*histories, *prompts]:
            assert experience_in(history.messages) is None
            assert "Advice" not in text_of(history.token_ids)

    def test_is_read_by_the_reflection_on_its_branch_if_asked_for(self):
        def reflect(messages, t):
            return reflection(2, "e2" if experience_in(messages) == "e1" else "e1")

        policy = ScriptedPolicy(lazy, reflect)
        tree = grow(policy, budget={"attempts": 3, "depth": 2}, reflection={"reads": "prompt"})
        (_, on_root), (_, on_branch) = policy.reflection_prompts
        assert (experience_in(on_root.messages), experience_in(on_branch.messages)) == (None, "e1")
        sampled_from = tree.attempts[1].steps[-1].prompt.token_ids
        assert on_branch.token_ids[: len(sampled_from)] == sampled_from
        assert experience_in(policy.prompts[-1].messages) == "e2"
        assert all(experience_in(step.history.messages) is None for each in tree.attempts for step in each.steps)

    def test_is_not_read_after_the_step_that_it_is_for(self):
        policy = ScriptedPolicy(careless, {4: reflection(2, "do not jump"), 5: reflection(2, "walk")})
        grow(policy, budget={"attempts": 3, "depth": 2}, reflection={"reads": "prompt", "scope": "step"})
        assert len(policy.reflection_prompts) == 2
        assert all(experience_in(prompt.messages) is None for _, prompt in policy.reflection_prompts)

    def test_is_not_read_by_a_reflection_whose_window_moved(self):
        policy = wandering(0)
        reads = {"reads": "prompt", "interval": 2}
        grow(policy, budget={"attempts": 12, "depth": 3}, reflection=reads, context={"window": 1})
        assert len(policy.reflection_prompts) >= 5
        assert all(experience_in(prompt.messages) is None for _, prompt in policy.reflection_prompts)

    def test_of_a_branch_replaces_the_one_of_its_parent(self):
        def reflect(messages, t):
            return reflection(2, "e2" if "X" in [message["content"] for message in messages] else "e1")

        policy = ScriptedPolicy(by_experience(e1="X"), reflect)
        grow(policy, budget={"depth": 2})
        # Four prompts of the root, then three of each branch; experience_in asserts that there is one at most.
        seen = [experience_in(prompt.messages) for prompt in policy.prompts]
        assert seen == [None] * 4 + ["e1"] * 3 + ["e2"] * 3


class TestRollback:
    @pytest.mark.parametrize("seed", range(4))
    def test_by_snapshot_and_by_replay_give_the_same_tree(self, seed):
        def grown(kind):
            return grow(wandering(seed), World(kind), roots=2, budget={"attempts": 12, "depth": 3})

        def told(tree):
            steps = [[(s.history, s.action, s.observation, s.reward, s.error) for s in a.steps] for a in tree.attempts]
            return steps, [(a.branch, a.outcome, a.error) for a in tree.attempts], tree.reflections

        restored, replayed = grown(Corridor), grown(ReplayCorridor)
        assert told(restored) == told(replayed)
        assert {attempt.replayed_steps for attempt in restored.attempts} == {0}
        assert [a.replayed_steps for a in replayed.attempts] == [
            a.branch.step - 1 if a.branch else 0 for a in replayed.attempts
        ]

    @pytest.mark.parametrize("kind", [Corridor, ReplayCorridor])
    def test_to_a_step_of_the_grandparent(self, kind):
        def reflect(messages, t):
            # The root is told to fix step 3, its branch to fix step 2, which the root played.
            return reflection(3, "back") if [m["content"] for m in messages].count("L") == 0 else reflection(2, "on")

        def act(messages):
            return {None: "RJRR"[turns_in(messages)], "back": "L", "on": "R"}[experience_in(messages)]

        tree = grow(ScriptedPolicy(act, reflect), World(kind))
        assert shape(tree) == [(None, 1, "RJRR", "horizon"), (0, 3, "LL", "horizon"), (1, 2, "RR", "success")]
        assert "".join(step.action.text for step in tree.path(2)) == "RRR"
        assert tree.path(2)[0] is tree.attempts[0].steps[0]
        assert tree.path(2)[1].history == tree.attempts[0].steps[1].history

    def test_that_diverges_ends_only_the_branch_and_gives_no_example(self):
        world = World(DriftingCorridor)
        tree = grow(
            ScriptedPolicy(by_experience(e1="R"), EVERY_STEP),
            world,
            budget={"depth": 1},
            reflection={"interval": 2},
            environment={"horizon": 3},
        )
        root, second, third = tree.attempts
        assert root.outcome is Outcome.HORIZON and root.error is None
        for branch in (second, third):
            assert (branch.outcome, branch.steps) == (Outcome.REPLAY_DIVERGENCE, ())
            assert "after 1 replayed actions" in branch.error and "must be deterministic" in branch.error
            assert TASK.key in branch.error
        examples = build_examples(tree, DistillationSettings(events="every"), seed=0)
        counts = count(tree, examples)
        assert (counts["outcome/replay_divergence"], counts["attempts_scored"], examples) == (2, 1, [])


@pytest.fixture
def impatient(monkeypatch):
    """Give up hanging actions at once, and let every other call take the time that a busy machine needs."""

    async def call(seconds, what, function, *arguments, thread):
        return await call_within(0.01 if "~" in arguments else seconds, what, function, *arguments, thread=thread)

    monkeypatch.setattr("leafe_verl.core.attempt.call_within", call)


class BoundToItsThread(Corridor):
    """Every call must come from the thread that made the environment."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.thread = threading.current_thread()

    def _enter(self, method):
        assert threading.current_thread() is self.thread
        super()._enter(method)


def test_all_calls_to_an_environment_come_from_one_thread():
    tree = grow(ScriptedPolicy(lazy), World(BoundToItsThread), threads=True)
    assert {attempt.outcome for attempt in tree.attempts} == {Outcome.HORIZON} and len(tree.attempts) > 1


class TestFailures:
    def test_an_environment_that_cannot_be_closed_harms_no_budget_of_steps(self, caplog):
        class Sticky(Quiz):
            def close(self):
                raise OSError("sticks")

        budget = {"environment_steps": 8, "depth": 0}
        tree = grow(ScriptedPolicy(lambda messages: "a"), Sticky, task=QUIZ, budget=budget, threads=True)
        assert [attempt.outcome.scored for attempt in tree.attempts] == [True]
        assert "close raised OSError: sticks" in caplog.text

    def test_an_environment_that_cannot_be_made_takes_no_step_of_the_budget(self):
        def broken():
            raise OSError("no server")

        tree = grow(ScriptedPolicy({}), broken, budget={"environment_steps": 8, "depth": 0}, threads=True)
        assert {attempt.outcome for attempt in tree.attempts} == {Outcome.ENVIRONMENT_FAILURE}

    @pytest.mark.usefixtures("impatient")
    def test_end_only_their_own_attempt(self):
        act = by_experience(e1="!", e2="~", e3=PolicyTimeout("no turn"), e4=ContextOverflow("full"))
        world = World()
        tree = grow(
            ScriptedPolicy(act, EVERY_STEP | {5: reflection(5, "e5")}),
            world,
            threads=True,
            budget={"depth": 1},
            reflection={"interval": 1},
            environment={"horizon": 5},
        )
        assert [attempt.outcome for attempt in tree.attempts] == [
            Outcome.HORIZON,
            Outcome.ENVIRONMENT_FAILURE,
            Outcome.ENVIRONMENT_TIMEOUT,
            Outcome.POLICY_TIMEOUT,
            Outcome.CONTEXT_OVERFLOW,
            Outcome.HORIZON,
        ]
        assert [attempt.error for attempt in tree.attempts] == [
            None,
            "corridor.step raised RuntimeError: boom",
            "corridor.step took longer than 0.01 s; leafe.environment.step_timeout sets the limit",
            "no turn",
            "full",
            None,
        ]
        assert [len(attempt.steps) for attempt in tree.attempts] == [5, 0, 0, 0, 0, 1]
        assert (world.ledger.made, world.ledger.closed) == (6, 6)

    @pytest.mark.parametrize("answer", ["!", PolicyFailure("no server")])
    def test_keep_the_steps_before_them(self, answer):
        tree = grow(ScriptedPolicy({"0": "R", "1": "R", "2": answer}))
        assert [step.action.text for step in tree.attempts[0].steps] == ["R", "R"]
        assert not tree.attempts[0].outcome.scored

    @pytest.mark.parametrize(
        ("method", "outcomes"),
        [
            ("reset", ["environment_failure"]),
            ("snapshot", ["environment_failure"]),
            ("step", ["environment_failure"]),
            ("restore", ["horizon", "environment_failure"]),
        ],
    )
    def test_of_any_method_end_the_attempt(self, method, outcomes):
        world = World(options={"broken": method})
        tree = grow(ScriptedPolicy(lazy, EVERY_STEP), world, threads=True)
        assert [attempt.outcome.value for attempt in tree.attempts] == outcomes
        assert tree.attempts[-1].error == f"corridor.{method} raised RuntimeError: {method} is broken"
        assert world.ledger.made == world.ledger.closed

    def test_the_time_limit_comes_from_the_settings(self):
        world = World(options={"hanging": "reset"})
        tree = grow(ScriptedPolicy(lazy), world, threads=True, environment={"step_timeout": 0.02})
        assert tree.attempts[0].outcome is Outcome.ENVIRONMENT_TIMEOUT
        assert tree.attempts[0].error.startswith("corridor.reset took longer than 0.02 s")

    def test_of_close_are_logged_and_do_not_change_the_outcome(self, caplog):
        world = World(options={"broken": "close"})
        tree = grow(ScriptedPolicy({"0": "R", "1": "R", "2": "R"}), world)
        assert shape(tree) == [(None, 1, "RRR", "success")]
        assert "corridor.close raised RuntimeError: close is broken" in caplog.text

    def test_a_history_that_outgrows_the_window_is_a_failure(self):
        # The opening prompt is <u>0<end><a>, each step adds L<end><u>0<end><a>: three prompts fit into 20 tokens.
        tree = grow(ScriptedPolicy(lazy, window=20))
        assert tree.attempts[0].outcome is Outcome.HORIZON and tree.attempts[0].out_of_context
        assert tree.attempts[0].error == "22 tokens, window 20"
        assert len(tree.attempts[0].steps) == 3 and not tree.attempts[0].ended_early
        assert count(tree, [])["attempts_out_of_context"] == sum(each.out_of_context for each in tree.attempts)
        (_, branch), *_ = tree.branches()
        assert branch.reflection.text.startswith("["), "the window holds no question either"

    def test_an_opening_prompt_beyond_the_window_is_an_overflow(self):
        tree = grow(ScriptedPolicy(lazy, window=3))
        assert shape(tree) == [(None, 1, "", "context_overflow")]

    def test_environments_are_closed_when_exploring_is_cancelled(self):
        world, policy = World(), ScriptedPolicy({"0": HANG})

        async def cancelled():
            exploring = asyncio.ensure_future(Explorer(world, policy, Settings()).explore(TASK, roots=3))
            while len(policy.prompts) < 3:
                await asyncio.sleep(0.001)
            exploring.cancel()
            with pytest.raises(asyncio.CancelledError):
                await exploring
            while world.ledger.closed < 3:  # in threads that nobody waits for
                await asyncio.sleep(0.001)

        asyncio.run(asyncio.wait_for(cancelled(), 20))
        assert (world.ledger.made, world.ledger.closed) == (3, 3)

    def test_a_stop_ends_running_attempts_and_keeps_the_rest_of_the_tree(self):
        # The root falls and is reflected upon; its branch never answers.
        act = by_experience(wait=HANG)
        policy, world = ScriptedPolicy(act, {4: reflection(1, "wait")}), World()

        async def stopped():
            explorer = Explorer(world, policy, Settings())
            exploring = asyncio.ensure_future(explorer.explore(TASK))
            while len(policy.prompts) < 5:
                await asyncio.sleep(0.001)
            explorer.stop.set()
            return await asyncio.wait_for(exploring, 20)

        tree = asyncio.run(stopped())
        assert [attempt.outcome for attempt in tree.attempts] == [Outcome.HORIZON, Outcome.INTERRUPTED]
        assert "leafe.collection.share" in tree.attempts[1].error and tree.attempts[1].steps == ()
        assert (world.ledger.made, world.ledger.closed) == (2, 2)

    def test_a_stop_during_a_reflection_begins_no_branch(self):
        policy = ScriptedPolicy(lazy, {4: HANG})

        async def stopped():
            explorer = Explorer(World(), policy, Settings())
            exploring = asyncio.ensure_future(explorer.explore(TASK))
            while not policy.reflection_prompts:
                await asyncio.sleep(0.001)
            explorer.stop.set()
            return await asyncio.wait_for(exploring, 20)

        tree = asyncio.run(stopped())
        assert shape(tree) == [(None, 1, "LLLL", "horizon")] and tree.reflections == []

    @pytest.mark.parametrize("budget", [{"depth": 1}, {"depth": 1, "environment_steps": 8}])
    def test_of_an_environment_that_cannot_be_made_end_every_attempt(self, budget):
        world = World(options={"no_such_option": True})
        tree = grow(ScriptedPolicy(lazy), world, roots=2, budget=budget)
        assert [attempt.outcome for attempt in tree.attempts] == [Outcome.ENVIRONMENT_FAILURE] * 2
        assert "make raised TypeError" in tree.attempts[0].error

    def test_what_is_no_text_is_the_environment_s_failure(self):
        class Odd(Corridor):
            def step(self, action):
                return super().step(action)._replace(observation=None)

        tree = grow(ScriptedPolicy(lazy), World(Odd), budget={"depth": 0})
        assert tree.attempts[0].outcome is Outcome.ENVIRONMENT_FAILURE
        assert "an observation is of type NoneType; expected a text" in tree.attempts[0].error

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"info": None}, "info is of type NoneType"),
            ({"reward": float("nan")}, "the reward is nan"),
            ({"reward": float("inf")}, "the reward is inf"),
            ({"reward": "much"}, "could not convert string to float"),
        ],
    )
    def test_what_is_no_step_is_the_environment_s_failure(self, changes, said):
        class Odd(Corridor):
            def step(self, action):
                return super().step(action)._replace(**changes)

        tree = grow(ScriptedPolicy(lazy), World(Odd), budget={"depth": 0})
        assert tree.attempts[0].outcome is Outcome.ENVIRONMENT_FAILURE and said in tree.attempts[0].error
        assert (
            "corridor.step returned" in tree.attempts[0].error and "expected the observation" in tree.attempts[0].error
        )

    def test_gymnasium_s_plain_tuple_is_a_step_and_a_bare_text_is_no_reset(self):
        class Plain(Corridor):
            def step(self, action):
                return tuple(super().step(action))

        class Bare(Corridor):
            def reset(self, task, seed):
                return super().reset(task, seed)[0]

        plain, bare = (grow(ScriptedPolicy(lazy), World(kind), budget={"depth": 0}) for kind in (Plain, Bare))
        assert plain.attempts[0].outcome is Outcome.HORIZON
        assert bare.attempts[0].outcome is Outcome.ENVIRONMENT_FAILURE
        assert "corridor.reset returned" in bare.attempts[0].error

    def test_a_horizon_that_cannot_be_set_is_the_environment_s_failure(self):
        class Fixed(Corridor):
            horizon = property(lambda self: 3)

        tree = grow(ScriptedPolicy(lazy), World(Fixed), budget={"depth": 0})
        assert tree.attempts[0].outcome is Outcome.ENVIRONMENT_FAILURE and "horizon raised" in tree.attempts[0].error

    def test_half_a_character_in_a_system_prompt_is_a_failure_of_the_environment(self):
        class Torn(Corridor):
            system_prompt = "kind \ud83d"

        tree = grow(ScriptedPolicy(lazy), World(Torn), budget={"depth": 0})
        assert tree.attempts[0].outcome is Outcome.ENVIRONMENT_FAILURE
        assert "system_prompt holds half of a character" in tree.attempts[0].error

    def test_half_a_character_which_no_tokenizer_takes_is_a_failure_of_the_environment(self):
        class Torn(Corridor):
            def step(self, action):
                return super().step(action)._replace(observation="\ud83d")

        tree = grow(ScriptedPolicy(lazy), World(Torn), budget={"depth": 0})
        assert tree.attempts[0].outcome is Outcome.ENVIRONMENT_FAILURE
        assert "half of a character (a lone surrogate)" in tree.attempts[0].error

    def test_an_action_of_another_meaning_is_no_command(self):
        class Other(Corridor):
            def step(self, action):
                step = super().step(action)
                return step._replace(info={**step.info, "action": 3})

        tree = grow(ScriptedPolicy(lazy), World(Other), budget={"depth": 0}, context={"window": 1})
        assert [step.command for step in tree.attempts[0].steps] == [None] * 4

    @pytest.mark.parametrize(("characters", "outcome"), [(2, Outcome.HORIZON), (1, Outcome.ENVIRONMENT_FLOOD)])
    def test_an_observation_too_long_is_a_flood(self, characters, outcome):
        goal = dataclasses.replace(TASK, data={"goal": 12})
        policy = ScriptedPolicy(lambda messages: "R")
        tree = grow(policy, task=goal, environment={"max_characters": characters, "horizon": 11}, budget={"depth": 0})
        assert tree.attempts[0].outcome is outcome

    def test_a_bug_in_one_attempt_leaves_no_other_one_running(self):
        world = World()
        policy = ScriptedPolicy(lambda messages: HANG if len(policy.prompts) < 3 else ZeroDivisionError())

        async def explore():
            with pytest.raises(ZeroDivisionError):
                await Explorer(world, policy, Settings()).explore(TASK, roots=3)
            return world.ledger.made, world.ledger.closed, len(asyncio.all_tasks())

        assert asyncio.run(explore()) == (3, 3, 1)

    def test_environments_are_closed_when_the_policy_has_a_bug(self):
        world = World()
        with pytest.raises(ZeroDivisionError):
            grow(ScriptedPolicy({"0": ZeroDivisionError("a bug is no failure of the policy")}), world)
        assert (world.ledger.made, world.ledger.closed) == (1, 1)


class TestEnd:
    @pytest.mark.parametrize(
        ("action", "outcome"),
        [("R", Outcome.SUCCESS), ("Q", Outcome.FAILURE), ("Z", Outcome.HORIZON), ("L", Outcome.HORIZON)],
    )
    def test_the_outcome_is_what_the_environment_reports(self, action, outcome):
        tree = grow(ScriptedPolicy({"0": "R", "1": "R", "2": action}), budget={"depth": 0})
        assert tree.attempts[0].outcome is outcome

    @pytest.mark.parametrize(("horizon", "steps"), [(None, Corridor.horizon), (2, 2), (6, 6)])
    def test_the_horizon_comes_from_the_settings_or_the_environment(self, horizon, steps):
        tree = grow(ScriptedPolicy(lazy), budget={"depth": 0}, environment={"horizon": horizon})
        assert shape(tree) == [(None, 1, "L" * steps, "horizon")]

    def test_the_horizon_counts_the_steps_before_the_rollback_point(self):
        tree = grow(ScriptedPolicy(lazy, {4: reflection(3, "e")}), budget={"depth": 1})
        assert shape(tree)[1] == (0, 3, "LL", "horizon")

    def test_after_the_last_step_nothing_can_overflow(self):
        # Four prompts of 4, 10, 16 and 22 tokens fit; a fifth would not.
        tree = grow(ScriptedPolicy(lazy, window=22), budget={"depth": 0})
        assert tree.attempts[0].outcome is Outcome.HORIZON
        assert len(tree.attempts[0].steps) == 4

    def test_a_step_keeps_what_the_environment_returned(self):
        tree = grow(ScriptedPolicy({"0": "X", "?": "J", "#": "Q"}), budget={"depth": 0})
        told = [(step.observation, step.reward, step.error, step.snapshot["cell"]) for step in tree.attempts[0].steps]
        assert told == [("?", 0.0, True, 0), ("#", -1.0, False, 0), ("#", 0.0, False, None)]


class TestSamplers:
    """Baselines and ablations of stage 1, each a setting."""

    def test_refinement_starts_over_with_the_experience(self):
        policy = ScriptedPolicy(careless, {4: reflection(2, "do not jump")})
        tree = grow(policy, reflection={"rollback": "start"})
        assert shape(tree) == [(None, 1, "RJRR", "horizon"), (0, 1, "RRR", "success")]
        assert tree.reflections[0][1].step == 2, "what the model named is kept"
        assert experience_in(policy.prompts[4].messages) == "do not jump"

    def test_a_branch_may_begin_at_the_first_failed_step_whatever_the_reflection_names(self):
        policy = ScriptedPolicy({"0": "R", "1": "X", "?": "X"}, {4: reflection(4, "mind the gap")})
        tree = grow(policy, reflection={"rollback": "first_failed"}, budget={"depth": 1})
        assert [bool(step.failed) for step in tree.attempts[0].steps] == [False, True, True, True]
        assert tree.attempts[1].branch.step == 2 and tree.attempts[1].branch.reflection.step == 4

    def test_without_a_failed_step_a_branch_begins_where_the_reflection_says(self):
        tree = grow(ScriptedPolicy(lazy, {4: reflection(3, "e")}), reflection={"rollback": "first_failed"})
        assert not any(step.failed for step in tree.attempts[0].steps) and tree.attempts[1].branch.step == 3

    def test_rollback_without_experience_is_a_second_try_from_the_same_step(self):
        policy = ScriptedPolicy(careless, {4: reflection(2, "do not jump")})
        tree = grow(policy, reflection={"experience": False}, budget={"depth": 1})
        assert shape(tree) == [(None, 1, "RJRR", "horizon"), (0, 2, "JRR", "horizon")]
        assert all(experience_in(prompt.messages) is None for prompt in policy.prompts)

    def test_independent_sampling_asks_for_no_reflection(self):
        policy = ScriptedPolicy(lazy, EVERY_STEP)
        tree = grow(policy, roots=9, budget={"depth": 0, "attempts": 9, "environment_steps": 11})
        assert policy.reflection_prompts == []
        assert [len(attempt.steps) for attempt in tree.attempts] == [4, 4]

    def test_each_independent_reflection_gives_a_branch(self):
        steps = iter([2, 3])
        policy = ScriptedPolicy(lazy, lambda messages, t: reflection(next(steps), "go"))
        tree = grow(policy, reflection={"samples": 2}, budget={"depth": 1})
        assert [(branch.parent, branch.step) for _, branch in tree.branches()] == [(0, 2), (0, 3)]
        assert [found.num_steps for _, found in tree.reflections] == [4, 4]

    def test_there_are_no_more_reflections_than_branches_in_the_budget(self):
        policy = ScriptedPolicy(lazy, EVERY_STEP)
        tree = grow(policy, reflection={"samples": 5}, budget={"depth": 1, "attempts": 3})
        assert len(policy.reflection_prompts) == 2
        assert len(tree.attempts) == 3


def test_the_playbook_is_part_of_the_system_prompt():
    policy = ScriptedPolicy(lazy)
    explorer = Explorer(World(), policy, Settings(), playbook="[a1] walk on")
    asyncio.run(explorer.explore(TASK))
    assert policy.prompts[0].messages[0] == {"role": "system", "content": "[a1] walk on"}


def test_an_action_that_the_environments_time_limit_stopped_is_marked():
    class Slow(Corridor):
        def step(self, action):
            step = super().step(action)
            return step._replace(info={**step.info, "timed_out": action == "L"})

    tree = grow(ScriptedPolicy(lambda messages: "R" if turns_in(messages) else "L"), World(Slow))
    assert tree.attempts[0].steps[0].timed_out and not tree.attempts[0].steps[1].timed_out
