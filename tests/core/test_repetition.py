"""Nothing is sampled for nothing: roots that all succeed end a task, and turns that repeat a failed one an attempt."""

from __future__ import annotations

from fakes import ScriptedPolicy, World, experience_in, grow, reflection, shape, turns_in
from leafe_verl.core import Task
from leafe_verl.core.recovery_figures import count_recovery, plain_attempts
from leafe_verl.core.statistics import count
from quiz import RIGHT, Quiz, played

UPON = {"reflection": {"upon_repetition": True}}
QUIZ = Task("quiz", "Say it.", "quiz", RIGHT)


def saying(words, told="a"):
    """A policy that says one word in each turn, and `told` in a branch."""
    return ScriptedPolicy(
        lambda messages: told if experience_in(messages) else words[turns_in(messages)],
        lambda messages, t: reflection(t, "say a"),
    )


class EachRoot(ScriptedPolicy):
    """A policy that says the words of one text in one root, and those of the next text in the next."""

    def __init__(self, *texts):
        super().__init__({})
        self._texts, self._of_root = iter(texts), {}

    async def act(self, history, request):
        if request not in self._of_root:
            self._of_root[request] = next(self._texts)
        self._act = lambda messages: self._of_root[request][turns_in(messages)]
        return await super().act(history, request)


def walks(tree):
    return [(row[1], "".join(row[2]), row[3]) for row in shape(tree)]


def test_by_default_every_turn_is_played():
    assert walks(grow(saying("xxyy"), Quiz, task=QUIZ, budget={"depth": 0})) == [(1, "xxyy", "horizon")]


def test_an_attempt_ends_where_a_turn_repeats_a_failed_one_and_is_reflected_on_at_once():
    policy = saying("xyxz")
    tree = grow(policy, Quiz, task=QUIZ, **UPON)
    assert walks(tree) == [(1, "xyx", "horizon"), (3, "a", "success")]
    assert [steps for steps, _ in policy.reflection_prompts] == [3]
    assert [attempt.unplayed_steps for attempt in tree.attempts] == [1, 1]
    assert [attempt.ended_early for attempt in tree.attempts] == [True, False]
    assert tree.attempts[0].error is None and tree.attempts[0].outcome.scored


def test_what_was_executed_counts_and_not_the_words_around_it():
    tree = grow(saying(["x#one", "x#two", "y", "z"]), Quiz, task=QUIZ, budget={"depth": 0}, **UPON)
    assert [len(attempt.steps) for attempt in tree.attempts] == [2]


def test_a_repetition_in_the_last_turn_leaves_nothing_unplayed():
    tree = grow(saying("xyzx"), Quiz, task=QUIZ, budget={"depth": 0}, **UPON)
    assert [(len(attempt.steps), attempt.unplayed_steps) for attempt in tree.attempts] == [(4, 0)]


def test_a_branch_repeats_the_failed_turns_before_its_rollback_point():
    policy = ScriptedPolicy(
        lambda messages: "x" if experience_in(messages) else "xyzw"[turns_in(messages)],
        {4: reflection(2, "say x again")},
    )
    tree = grow(policy, Quiz, task=QUIZ, budget={"depth": 1}, **UPON)
    assert walks(tree) == [(1, "xyzw", "horizon"), (2, "x", "horizon")]
    assert tree.attempts[1].unplayed_steps == 2 and tree.attempts[1].ended_early


def test_the_turn_that_a_branch_replaces_is_not_on_its_path():
    policy = ScriptedPolicy(lambda messages: "xyzw"[turns_in(messages)], {4: reflection(2, "as before")})
    tree = grow(policy, Quiz, task=QUIZ, budget={"depth": 1}, **UPON)
    assert walks(tree) == [(1, "xyzw", "horizon"), (2, "yzw", "horizon")]


def test_a_repeated_turn_is_executed_and_may_succeed():
    class Second(Quiz):
        """Takes a word the second time."""

        def step(self, action):
            step = super().step(action)
            solved = self.said.count(action) == 2
            return step._replace(terminated=solved, info={"success": solved, "failed": not solved})

    assert walks(grow(saying("xyxz"), Second, task=QUIZ, **UPON))[0] == (1, "xyx", "success")


def test_a_turn_without_a_verdict_repeats_nothing():
    policy = ScriptedPolicy(lambda messages: "L")  # the corridor only shows where one is
    tree = grow(policy, World(), budget={"depth": 0}, **UPON)
    assert shape(tree) == [(None, 1, "LLLL", "horizon")]


def test_a_plain_attempt_plays_every_turn():
    assert [len(attempt.steps) for attempt in played("xxxx", **UPON).attempts] == [4]


def test_steps_that_were_not_played_are_left_in_the_budget():
    budget = {"environment_steps": 7, "attempts": 8, "depth": 0}
    assert [row[1] for row in walks(grow(saying("xxxx"), Quiz, task=QUIZ, roots=8, budget=budget, **UPON))] == [
        "xx", "xx"
    ], "the third root would have to have room for four steps"  # fmt: skip
    assert len(grow(saying("xxxx"), Quiz, task=QUIZ, roots=8, budget=budget).attempts) == 1


def test_steps_that_were_not_played_are_counted():
    tree = grow(saying("xxyy"), Quiz, task=QUIZ, roots=3, budget={"depth": 0}, **UPON)
    counts = count(tree, [])
    assert (counts["attempts_ended_early"], counts["unplayed_steps"], counts["environment_steps"]) == (3, 6, 6)
    assert (counts["outcome/horizon"], counts["attempts_scored"]) == (3, 3)


def test_a_fresh_sample_has_the_turns_up_to_the_horizon():
    # One root succeeds in its second turn; the other is ended there, with two of four turns left.
    tree = grow(EachRoot("xx", "ya"), Quiz, task=QUIZ, roots=2, slots=1, budget={"depth": 0}, **UPON)
    assert sorted(len(attempt.steps) for attempt in tree.attempts) == [2, 2]
    found = {(each.solved, each.unplayed) for each in plain_attempts(tree)}
    assert found == {(False, 2), (True, 2)}
    counts = count_recovery(plain_attempts(tree))
    assert (counts["recovery/failures"], counts["recovery/recovered"], counts["recovery/fresh"]) == (2, 1, 1)
    assert counts["recovery/repeats"] == 1 and "recovery/failures_2" not in counts


def test_roots_that_all_succeed_end_a_task():
    policy = saying("a")
    settings = {"budget": {"attempts": 9, "depth": 3}, "distillation": {"recovery_targets": 4}}
    tree = grow(policy, Quiz, task=QUIZ, roots=3, **settings)
    assert walks(tree) == [(1, "a", "success")] * 3
    assert sorted(policy.requests) == ["attempt 0", "attempt 1", "attempt 2"], "nothing is reflected on"
    assert tree.recovery_targets == [], "there is no failed turn to recover from"


def test_with_an_interval_successes_are_reflected_on_too():
    policy = saying("xya")
    grow(policy, Quiz, task=QUIZ, budget={"attempts": 1}, reflection={"interval": 2})
    assert policy.reflection_prompts == [], "the budget holds no branch"
    grow(policy, Quiz, task=QUIZ, budget={"depth": 1}, reflection={"interval": 2})
    assert [steps for steps, _ in policy.reflection_prompts] == [2]


def test_without_reflecting_on_successes_they_end_a_task_with_an_interval_too():
    policy = saying("xya")
    tree = grow(policy, Quiz, task=QUIZ, roots=2, budget={"depth": 1}, reflection={"interval": 2, "successes": False})
    assert walks(tree) == [(1, "xya", "success")] * 2
    assert policy.reflection_prompts == []


def test_failures_are_reflected_on_whether_or_not_successes_are():
    policy = saying("xyzw")
    grow(policy, Quiz, task=QUIZ, budget={"depth": 1}, reflection={"interval": 2, "successes": False})
    assert [steps for steps, _ in policy.reflection_prompts] == [2, 4]


def test_a_fresh_sample_has_the_turns_up_to_the_horizon_where_every_root_succeeded_before_it():
    tree = grow(EachRoot("xa", "xya"), Quiz, task=QUIZ, roots=2, slots=1, budget={"depth": 0})
    assert sorted(len(attempt.steps) for attempt in tree.attempts) == [2, 3]
    counts = count_recovery(plain_attempts(tree))
    assert (counts["recovery/failures"], counts["recovery/fresh"]) == (2, 2), "three turns are left of four"


def test_an_attempt_that_its_environment_truncates_has_no_turns_left():
    class Short(Quiz):
        def step(self, action):
            return super().step(action)._replace(truncated=len(self.said) == 2)

    (attempt,) = grow(saying("xyzw"), Short, task=QUIZ, budget={"depth": 0}).attempts
    assert (len(attempt.steps), attempt.unplayed_steps, attempt.ended_early) == (2, 0, False)
