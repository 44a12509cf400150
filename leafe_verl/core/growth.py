"""Which attempts the budget of a tree holds, while the tree grows concurrently.

The budget is spent in breadth-first order: depth by depth, and within a depth in the order of the parents. Attempts end
in any order, however, so what is left for one may depend on earlier ones that are still running. It begins as soon as
that no longer matters: the budget holds it (or does not) whatever the earlier ones will still use.

For example, with a budget of 8 attempts, 4 roots and at most 1 branch of each, the branch of the last root may begin
while the other roots are running: 4 roots, at most 3 branches before it, and itself are within 8. With a budget of 6 it
waits until it is known how many of those 3 there are.

So nothing waits longer than it must, and the same answers of the policy give the same tree.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from leafe_verl.core.reflection import Reflection
from leafe_verl.core.settings import BudgetSettings
from leafe_verl.core.task import Task
from leafe_verl.core.tree import Attempt, Branch, ExplorationTree, StepRecord

T = TypeVar("T")


@dataclass(eq=False)
class Node:
    """The place of an attempt in the tree, which exists before the attempt begins."""

    name: str
    """Path from the root, the same in every run: "2.0" is the first branch of the third root."""
    parent: Node | None = None
    """The node that it branches off from. None for a root."""
    reflection: Reflection | None = None
    """The reflection that it branches off for. None for a root, and until the policy has reflected."""
    step: int = 1
    """tau, the step at which it leaves its parent, counted from 1."""
    attempt: Attempt | None = None
    """The attempt. None until it has ended."""
    num_wanted: int | None = None
    """Number of branches that it would have with an unlimited budget. None until its attempt has ended."""
    dropped: bool = False
    """Whether it is left out: the budget did not hold it after all, or exploring was stopped."""
    children: list[Node] | None = None
    """Those of its branches that the budget holds. None until that is certain."""
    reflections: dict[int, Reflection] = field(default_factory=dict)
    """Reflections on its attempt, by number, since they may arrive in any order."""

    @property
    def depth(self) -> int:
        return self.parent.depth + 1 if self.parent else 0

    @property
    def ended(self) -> bool:
        return self.attempt is not None or self.dropped

    @property
    def prefix(self) -> tuple[StepRecord, ...]:
        """Return the parent's steps before the rollback point."""
        return self.parent.path[: self.step - 1] if self.parent else ()

    @property
    def path(self) -> tuple[StepRecord, ...]:
        """All steps from the task's start to the end of its attempt."""
        return self.prefix + (self.attempt.steps if self.attempt else ())


class Growth:
    """The nodes of one growing tree. It tells each node whether it may begin, and how many branches it may have."""

    def __init__(self, budget: BudgetSettings, roots: int, max_branches: float, horizon: int) -> None:
        """`max_branches` bounds the branches of one attempt.

        `horizon` is the maximum number of steps of an attempt. It counts only if the budget limits steps.
        """
        self.budget, self.max_branches, self.horizon = budget, max_branches, horizon
        self.roots = [Node(str(number)) for number in range(min(roots, budget.attempts))]
        self._changed = asyncio.Event()

    async def may_begin(self, node: Node) -> bool:
        """Wait until it is certain whether the budget's environment steps hold a node, and return that.

        Attempts that have not ended count with the most steps that they may take.
        """
        if self.budget.environment_steps is None:
            return True
        return await self._until_certain(lambda: self._has_steps_for(node))

    def drop(self, node: Node) -> None:
        """Leave a node out of the tree."""
        node.dropped, node.children = True, []
        self._notify()

    async def add_branches(self, node: Node, attempt: Attempt, wanted: int) -> list[Node]:
        """Record the attempt of a node, then wait until it is certain how many branches the budget holds.

        Returns the nodes of those branches, `wanted` at most.
        """
        node.attempt, node.num_wanted = attempt, wanted
        self._notify()
        held = await self._until_certain(lambda: self._num_branches_held(node)) if wanted else 0
        node.children = [Node(f"{node.name}.{number}", node) for number in range(held)]
        self._notify()
        return node.children

    def build_tree(self, task: Task) -> ExplorationTree:
        """Return what has been explored, in breadth-first order."""
        tree = ExplorationTree(task)
        index: dict[Node, int] = {}
        for node in itertools.chain.from_iterable(self._generations()):
            if node.attempt is None:
                continue
            branch = None
            if node.parent and node.reflection:
                branch = Branch(index[node.parent], node.step, node.depth, node.reflection)
            index[node] = tree.add(dataclasses.replace(node.attempt, branch=branch))
            tree.reflections += [(index[node], node.reflections[number]) for number in sorted(node.reflections)]
        return tree

    async def _until_certain(self, decide: Callable[[], T | None]) -> T:
        """Call `decide` after every change, until it returns an answer instead of None."""
        while (decided := decide()) is None:
            await self._changed.wait()
        return decided

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _generations(self) -> list[list[Node]]:
        """Return the nodes by depth, down to the deepest generation whose nodes are all known."""
        generations = [self.roots]
        while generations[-1] and all(node.children is not None for node in generations[-1]):
            generations.append([child for node in generations[-1] for child in node.children or ()])
        return generations

    def _has_steps_for(self, node: Node) -> bool | None:
        """Return whether the budget of environment steps holds a node; None while that depends on running attempts."""
        generations, budget = self._generations(), self.budget.environment_steps or 0
        if len(generations) <= node.depth:
            return None
        earlier = [*itertools.chain(*generations[: node.depth]), *_earlier_siblings(node, generations)]
        if any(each.dropped for each in earlier):
            return False
        if sum(map(self._max_steps, [*earlier, node])) <= budget:
            return True
        return False if all(each.ended for each in earlier) else None

    def _max_steps(self, node: Node) -> int:
        return len(node.attempt.steps) if node.attempt else self.horizon - node.step + 1

    def _num_branches_held(self, node: Node) -> int | None:
        """Return how many branches of a node the budget holds; None while that depends on running attempts."""
        generations = self._generations()
        if len(generations) <= node.depth:
            return None
        nodes = list(itertools.chain(*generations[: node.depth + 1]))
        if self.budget.environment_steps is not None:
            if not all(each.ended for each in nodes):
                return None  # what is left of the steps depends on all of them
            if any(each.dropped for each in nodes) or sum(map(self._max_steps, nodes)) >= self.budget.environment_steps:
                return 0
        left = self.budget.attempts - len(nodes)
        earlier = _earlier_siblings(node, generations)
        # The answer is certain if it is the same whether running attempts get no branches or as many as they may.
        answers = {
            max(min(node.num_wanted or 0, left - sum(_num_branches(each, unknown) for each in earlier)), 0)
            for unknown in (0, self.max_branches)
        }
        return int(answers.pop()) if len(answers) == 1 else None


def _earlier_siblings(node: Node, generations: list[list[Node]]) -> list[Node]:
    """Return the nodes of the same depth that come before a node."""
    generation = generations[node.depth]
    return generation[: generation.index(node)]


def _num_branches(node: Node, unknown: float) -> float:
    """Return how many branches a node wants; `unknown` for one whose attempt has not ended."""
    if node.dropped:
        return 0
    return unknown if node.num_wanted is None else node.num_wanted
