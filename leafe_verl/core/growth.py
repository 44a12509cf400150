"""A tree while it grows: which attempts the budget holds, in breadth-first order, whatever the order they end in.

An attempt, or a reflection that leads to some, begins as soon as the budget is sure to hold it, whatever becomes of
those before it that are still under way. So none waits without need for the slowest of its depth, and the same answers
give the same tree.
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
    """An attempt's place in the breadth-first order, taken before it begins."""

    name: str
    """As in "2.0", the first branch of the third root: the same in every run."""
    parent: Node | None = None
    reflection: Reflection | None = None
    """What it branches off for; None for a root, and before that is known."""
    step: int = 1
    """tau, where it leaves its parent."""
    attempt: Attempt | None = None
    """Once it has ended."""
    wanted: int | None = None
    """How many branches the reflections on it would lead to, once it has ended."""
    refused: bool = False
    """The budget did not hold it after all, or exploring was stopped."""
    children: list[Node] | None = None
    """Those of the branches that the budget holds, once that is sure."""
    reflections: dict[int, Reflection] = field(default_factory=dict)
    """By the order of their requests, which may be answered in any."""

    @property
    def depth(self) -> int:
        return self.parent.depth + 1 if self.parent else 0

    @property
    def over(self) -> bool:
        return self.attempt is not None or self.refused

    @property
    def before(self) -> tuple[StepRecord, ...]:
        """Its parent's steps before the rollback point."""
        return self.parent.path[: self.step - 1] if self.parent else ()

    @property
    def path(self) -> tuple[StepRecord, ...]:
        """All steps from the task's start to its attempt's end."""
        return self.before + (self.attempt.steps if self.attempt else ())


class Growth:
    """The nodes of one tree, and who of them may begin.

    `most_wanted` is the most branches that reflections on one attempt can lead to; `horizon` gives the most steps of an
    attempt, and is asked where the budget counts steps.
    """

    def __init__(self, budget: BudgetSettings, roots: int, most_wanted: float, horizon: Callable[[], int]) -> None:
        self.budget, self.most_wanted, self.horizon = budget, most_wanted, horizon
        self.roots = [Node(str(number)) for number in range(min(roots, budget.attempts))]
        self._news = asyncio.Event()

    async def admits(self, node: Node) -> bool:
        """Wait until it is sure whether the budget's environment steps, reserved at their worst case, hold a node."""
        if self.budget.environment_steps is None:
            return True
        return await self._sure(lambda: self._admits(node))

    def refuse(self, node: Node) -> None:
        node.refused, node.children = True, []
        self._tell()

    async def branches(self, node: Node, attempt: Attempt, wanted: int) -> list[Node]:
        """Note how a node's attempt has ended, then wait until it is sure how many of its branches the budget holds.

        Returns their places, `wanted` at most.
        """
        node.attempt, node.wanted = attempt, wanted
        self._tell()
        room = await self._sure(lambda: self._room(node)) if wanted else 0
        node.children = [Node(f"{node.name}.{number}", node) for number in range(room)]
        self._tell()
        return node.children

    def tree(self, task: Task) -> ExplorationTree:
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

    async def _sure(self, decide: Callable[[], T | None]) -> T:
        """Ask again whenever there is news, until there is an answer."""
        while (decided := decide()) is None:
            await self._news.wait()
        return decided

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _generations(self) -> list[list[Node]]:
        """Nodes by depth, down to the last depth of which all nodes are known."""
        generations = [self.roots]
        while generations[-1] and all(node.children is not None for node in generations[-1]):
            generations.append([child for node in generations[-1] for child in node.children or ()])
        return generations

    def _admits(self, node: Node) -> bool | None:
        generations, total = self._generations(), self.budget.environment_steps or 0
        if len(generations) <= node.depth:
            return None
        earlier = [*itertools.chain(*generations[: node.depth]), *_until(node, generations[node.depth])]
        if any(each.refused for each in earlier):
            return False
        if sum(map(self._most_steps, [*earlier, node])) <= total:
            return True
        return False if all(each.over for each in earlier) else None

    def _most_steps(self, node: Node) -> int:
        return len(node.attempt.steps) if node.attempt else self.horizon() - node.step + 1

    def _room(self, node: Node) -> int | None:
        generations = self._generations()
        if len(generations) <= node.depth:
            return None
        nodes = list(itertools.chain(*generations[: node.depth + 1]))
        total = self.budget.environment_steps
        if total is not None:  # what is left of it depends on all of them
            if not all(each.over for each in nodes):
                return None
            if any(each.refused for each in nodes) or sum(map(self._most_steps, nodes)) >= total:
                return 0
        earlier = _until(node, generations[node.depth])
        rooms = {
            max(min(node.wanted or 0, self.budget.attempts - len(nodes) - sum(_wanted(earlier, unknown))), 0)
            for unknown in (0, self.most_wanted)
        }
        return int(rooms.pop()) if len(rooms) == 1 else None


def _until(node: Node, generation: list[Node]) -> list[Node]:
    return generation[: generation.index(node)]


def _wanted(nodes: list[Node], unknown: float) -> list[float]:
    """Branches that nodes lead to; `unknown` stands for what one leads to that is still under way."""
    return [0 if node.refused else unknown if node.wanted is None else node.wanted for node in nodes]
