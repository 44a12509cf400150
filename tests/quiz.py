"""An environment that judges every action, trees whose roots are given word by word, and their recovery targets."""

from __future__ import annotations

import asyncio
from unittest.mock import patch

from fakes import ScriptedPolicy, call_inline, turns_in
from leafe_verl.core import ExplorationTree, Explorer, Settings, Step, Task

RIGHT = {"right": ["a", "b", "c"]}


class Quiz:
    """A question with several right words, some of which are no longer right once another word was said.

    What follows a # is a remark and not part of the word. Every action has a verdict.
    """

    system_prompt = ""
    horizon = 4

    def reset(self, task, seed):
        self.data, self.said = task.data, ()
        return "?", {}

    def step(self, action):
        word = action.partition("#")[0]
        spoiled_by = self.data.get("spoiled", {}).get(word)
        solved = word in self.data["right"] and spoiled_by not in self.said
        self.said = (*self.said, word)
        return Step(f"{word}!", float(solved), solved, False, {"success": solved, "failed": not solved, "action": word})

    def snapshot(self):
        return self.data, self.said

    def restore(self, snapshot):
        self.data, self.said = snapshot
        return 0

    def close(self):
        pass


def no_policy(messages):
    raise AssertionError("the policy was asked for an action")


def played(*walks, key="quiz", data=RIGHT, **settings):
    """A tree of roots with the given actions, each a list of words."""
    tree = ExplorationTree(Task(key, "Say it.", "quiz", data))

    async def play():
        for walk in walks:
            policy = ScriptedPolicy(lambda messages, walk=walk: walk[turns_in(messages)])
            options = {"environment": {"horizon": len(walk)}, **settings}
            tree.add(await Explorer(Quiz, policy, Settings.from_mapping(options)).attempt(tree.task))

    with patch("leafe_verl.core.attempt.call_within", call_inline):
        asyncio.run(play())
    return tree


def confirm(tree, targets=4, *, environment=Quiz, stop=None, call=call_inline, **settings):
    """Confirm recoveries of the tree, and return them as (attempt, step, source, outcome)."""
    settings.setdefault("distillation", {})["recovery_targets"] = targets
    explorer = Explorer(
        environment, ScriptedPolicy(no_policy), Settings.from_mapping(settings), stop=stop or asyncio.Event()
    )
    with patch("leafe_verl.core.attempt.call_within", call):
        asyncio.run(asyncio.wait_for(explorer.confirm_recovery_targets(tree), 20))
    return [(each.attempt, each.step, each.source, each.outcome.value) for each in tree.recovery_targets or []]
