"""Runs to report on, of trees grown by the scripted policy and of trees made up to look like MBPP's."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from fakes import ScriptedPolicy, Task, experience_in, grow, observation_in, reflection, turn, wandering
from leafe_verl.core import Attempt, Branch, ExplorationTree, History, Outcome, Reflection, StepRecord, build_examples
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.evaluation.summary import Metrics
from leafe_verl.report.sources import ReportedRun, ReportedTree

SETTINGS = DistillationSettings(rehearsal_share=1.0)

METRICS: Metrics = {
    0: {"val-core/mbpp/pass@1": 0.203, "val-core/mbpp/pass@8": 0.656},
    1: {
        "leafe/trees": 16, "leafe/attempts": 120, "leafe/attempts_scored": 119, "leafe/branches": 60,
        "leafe/branches_scored": 59, "leafe/branches_improved": 14, "leafe/branches_succeeded": 9,
        "leafe/reflections": 62, "leafe/reflections_parsed": 58, "leafe/reflections_fallback": 4,
        "leafe/environment_steps": 210, "leafe/sampled_tokens": 12345, "leafe/branch_improved": 14 / 59,
        "leafe/reflection_parsed": 58 / 62, "actor/loss": 1.25, "actor/loss_counterfactual": 0.75,
        "actor/loss_rehearsal": 0.5, "timing_s/step": 90.0,
    },
    2: {
        "leafe/trees": 16, "leafe/attempts": 126, "leafe/attempts_scored": 126, "leafe/branches": 58,
        "leafe/branches_scored": 58, "leafe/branches_improved": 15, "leafe/branches_succeeded": 10,
        "leafe/reflections": 60, "leafe/reflections_parsed": 60, "leafe/reflections_fallback": 0,
        "leafe/environment_steps": 205, "leafe/sampled_tokens": 12000, "leafe/branch_improved": 15 / 58,
        "leafe/reflection_parsed": 1.0, "actor/loss": 1.0, "actor/loss_counterfactual": 0.6,
        "actor/loss_rehearsal": float("nan"), "val-core/mbpp/pass@1": 0.336, "val-core/mbpp/pass@8": 0.719,
    },
}  # fmt: skip

HOSTILE = (
    "</script><script>window.hurt = 1</script><img src=x onerror='window.hurt = 2'><!-- ]]> &lt;b&gt; "
    "${hurt} `hurt` \x00\x07\x1b[31m \u202eesrever\u202c \ud83d lone \udcff byte \u2028 'quoted' \"twice\""
)
"""What would run, vanish or turn its neighbours around if it were anything but text; U+DCFF is the byte 0xFF, which is
no UTF-8, as Python reads it."""
LONG_LINE = "x<b>" * 262_144
"""One line of a megabyte."""


def reported(tree: ExplorationTree, step: int | None = 1) -> ReportedTree:
    return ReportedTree(tree, tuple(build_examples(tree, SETTINGS, seed=0)), step)


def rescued(key: str = "corridor-3", experience: str = "do not jump") -> ExplorationTree:
    """R J R R into the pit; then, rolled back to step 2 with an experience: R R to the end."""

    def act(messages):
        return "J" if experience_in(messages) is None and observation_in(messages) == "1" else "R"

    task = Task(key, "Walk to the end.", "corridor", {"goal": 3})
    return grow(ScriptedPolicy(act, {4: reflection(2, experience)}), task=task, budget={"depth": 1})


def wandered(seed: int) -> ExplorationTree:
    """A tree of many shapes: branches of depth 2 and more, cut actions, unscored attempts, fallbacks."""
    task = Task(f"wander-{seed}", "Walk about.", "corridor", {"goal": 3})
    settings = {"budget": {"attempts": 14, "depth": 3}, "reflection": {"interval": 2}}
    return grow(wandering(seed, window=70), roots=2, task=task, **settings)


def hostile(text: str = HOSTILE) -> ExplorationTree:
    """The same hostile text as key, instruction, action, feedback, experience and reflection."""
    key = re.sub("[\ud800-\udfff]", "", text)  # keys seed generators, which take no lone surrogate
    task = Task(key, text, text)
    opening = History((1,), ({"role": text, "content": text},))
    failed = StepRecord(opening, turn(text), text, 0.0, True, None)
    revised = StepRecord(opening, turn(f"{text}!"), text, 1.0, False, None)
    tree = ExplorationTree(task)
    looked = Reflection(1, text, parsed=True, text=text, num_tokens=3, num_steps=1)
    tree.add(Attempt(None, (failed,), Outcome.FAILURE))
    tree.add(Attempt(Branch(0, 1, 1, looked), (revised,), Outcome.SUCCESS))
    tree.add(Attempt(None, (), Outcome.ENVIRONMENT_FAILURE, error=text))
    tree.reflections.append((0, looked))
    return tree


def small_run() -> ReportedRun:
    """A run of some trees of every kind, the hostile one among them."""
    trees = [rescued("corridor-3"), rescued("corridor-12"), *map(wandered, range(4)), hostile()]
    listed = [reported(tree, 1 + number % 2) for number, tree in enumerate(trees)]
    return ReportedRun(
        "leafe", listed, metrics=METRICS, vocabulary=lambda token: chr(token) if token > 31 else f"<{token}>"
    )


WORDS = ("sum", "product", "list", "tuple", "of", "numbers", "strings", "nested", "the", "first", "each", "longest")
SYSTEM = (
    "You write Python. Answer with one function in a code block; you have two turns, the second to repair the first."
)
WRONG = (
    "def {name}(values):\n    result = 0\n    for value in values:\n        result = result + value\n    return result"
)
RIGHT = (
    "def {name}(values):\n    result = 1\n    for value in values:\n        result = result * value\n    return result"
)


def written(number: int) -> ExplorationTree:
    """A tree of the size and look of MBPP's: four roots of two turns, branches from some, prose that differs."""
    draw = random.Random(number)
    request = f"Write a function to find the {' '.join(draw.choices(WORDS, k=14))}."
    task = Task(f"mbpp-{number}", request, "mbpp")
    name = f"find_{'_'.join(draw.choices(WORDS, k=2))}"

    def act(messages):
        right = draw.random() < (0.6 if experience_in(messages) else 0.25)
        code = (RIGHT if right else WRONG).format(name=name)
        return f"{' '.join(draw.choices(WORDS, k=20))}\n```python\n{code}\n```"

    def reflect(messages, num_steps):
        return reflection(draw.randint(1, num_steps), f"The function must {' '.join(draw.choices(WORDS, k=18))}.")

    world = _Coding(request, name, draw)
    return grow(ScriptedPolicy(act, reflect), lambda: world, roots=4, task=task)


class _Coding:
    """Accepts the product, and answers anything else with an assertion's failure."""

    system_prompt, horizon = SYSTEM, 2

    def __init__(self, request: str, name: str, draw: random.Random) -> None:
        self.request, self.name, self.draw = request, name, draw

    def reset(self, task, seed):
        return f"{self.request}\nYour function must pass: assert {self.name}([2, 3, 4]) == 24", {}

    def step(self, action):
        from leafe_verl.core import Step

        if "result * value" in action:
            return Step("All tests passed.", 1.0, True, False, {"success": True})
        found = self.draw.randint(1, 99)
        text = f"AssertionError: {self.name}([2, 3, 4]) is {found}, expected 24\n  1 of 3 tests passed"
        return Step(text, 0.0, False, False, {"error": True})

    def snapshot(self):
        return None

    def restore(self, snapshot):
        return 0

    def close(self):
        pass


def written_trees(number: int, different: int = 50) -> Iterator[ReportedTree]:
    """So many trees; growing each anew would take minutes, so that they repeat a few under keys of their own."""
    grown = [reported(written(seed)) for seed in range(different)]
    for index in range(number):
        model = grown[index % different]
        tree = ExplorationTree(Task(f"mbpp-{index}", model.tree.task.instruction, "mbpp"))
        tree.attempts, tree.reflections = model.tree.attempts, model.tree.reflections
        yield ReportedTree(tree, model.examples, 1 + index * 20 // number)
