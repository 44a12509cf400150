"""A scripted policy and tiny environments, so that the core's tests are exact, readable and instant.

Tokens are characters, so that a token list in a test can be read: `SYSTEM`, `USER` and `ASSISTANT` open a message,
`END` closes it, and every other token is the code point of its character (48 is "0", 82 is "R").
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from leafe_verl.core import (
    ContextOverflow,
    ExplorationTree,
    Explorer,
    History,
    Message,
    PolicyFailure,
    ReplayEnvironment,
    Settings,
    Step,
    Task,
    Turn,
)
from leafe_verl.core.environment_calls import as_failure
from leafe_verl.core.reflection import EXPERIENCE

SYSTEM, USER, ASSISTANT, END = 1, 2, 3, 4
ROLES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
LOG_PROB = -0.5
"""Log-probability of every token that the scripted policy samples."""

HANG = object()
"""An answer that never comes."""


class Cut(str):
    """An answer that the token limit cut off, so that it has no end-of-turn token."""


class Stopped(str):
    """An answer that was ended for the policy, so that its end-of-turn token was added."""


def tokens(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def text_of(token_ids: Sequence[int]) -> str:
    """Return token ids as text. Special tokens become <s>, <u>, <a> and <end>."""
    names = {SYSTEM: "<s>", USER: "<u>", ASSISTANT: "<a>", END: "<end>"}
    return "".join(names.get(token) or chr(token) for token in token_ids)


def observation_in(messages: Sequence[Message]) -> str:
    """Return the latest observation without the note after it."""
    return messages[-1]["content"].split("\n\n")[0]


def experience_in(messages: Sequence[Message]) -> str | None:
    """Return the experience in a prompt, or None."""
    marker = EXPERIENCE.format(experience="")
    shown = [m["content"].split(marker)[1] for m in messages if m["role"] == "user" and marker in m["content"]]
    assert len(shown) <= 1, f"a prompt holds one experience at most, this one {shown}"
    return shown[0] if shown else None


def turns_in(messages: Sequence[Message]) -> int:
    """Return the number of actions so far, including those before the rollback point."""
    return sum(message["role"] == "assistant" for message in messages)


def turn(text: str, *, complete: bool = True, num_added: int = 0) -> Turn:
    token_ids = tokens(text) + ((END,) if complete else ())
    log_probs = (LOG_PROB,) * (len(token_ids) - num_added) + (0.0,) * num_added
    return Turn(text, token_ids, log_probs, complete, num_added=num_added)


Answer = str | Exception | object
"""A text, a `Cut`, a `Stopped`, an exception to raise, or `HANG`."""


class ScriptedPolicy:
    """A policy whose answers depend only on the messages in the prompt, and so not on the order of calls.

    `act` maps messages to an answer, or is a mapping from the latest observation to one; `reflect` also gets the
    number of steps, or is a mapping from that number. By default it never answers a reflection request sensibly.
    """

    def __init__(
        self,
        act: Callable[[Sequence[Message]], Answer] | Mapping[str, Answer],
        reflect: Callable[[Sequence[Message], int], Answer] | Mapping[int, Answer] | None = None,
        *,
        window: int | None = None,
        delays: random.Random | None = None,
    ) -> None:
        self._act = act if callable(act) else lambda messages: act[observation_in(messages)]
        self._reflect = reflect if callable(reflect) else lambda messages, t: (reflect or {}).get(t, "no idea")
        self.window = window
        """Maximum number of tokens of a history; a longer one raises ContextOverflow. None: no limit."""
        self.delays = delays
        """If given, every call yields to the event loop a random number of times."""
        self.requests: list[str] = []
        """The name of every request; see `Policy`."""
        self.prompts: list[History] = []
        """Every prompt for an action."""
        self.reflection_prompts: list[tuple[int, History]] = []
        """Every prompt for a reflection, with the number of steps that it is about."""

    async def begin(self, messages: Sequence[Message]) -> History:
        token_ids = [t for m in messages for t in (ROLES[m["role"]], *tokens(m["content"]), END)]
        return self._fitting(History((*token_ids, ASSISTANT), tuple(messages)))

    async def extend(self, history: History, turn: Turn, observation: str) -> History:
        closing = () if turn.complete else (END,)
        token_ids = (*history.token_ids, *turn.token_ids, *closing, USER, *tokens(observation), END, ASSISTANT)
        news = ({"role": "assistant", "content": turn.text}, {"role": "user", "content": observation})
        return self._fitting(History(token_ids, (*history.messages, *news), (history, turn)))

    async def act(self, history: History, request: str) -> Turn:
        self.requests.append(request)
        self.prompts.append(history)
        return await self._turn(self._act(history.messages))

    async def reflect(self, history: History, schema: Mapping[str, Any], request: str) -> Turn:
        num_steps = schema["properties"]["step"]["maximum"]
        self.requests.append(request)
        self.reflection_prompts.append((num_steps, history))
        return await self._turn(self._reflect(history.messages, num_steps))

    async def _turn(self, answer: Answer) -> Turn:
        for _ in range(self.delays.randrange(10) if self.delays else 1):
            await asyncio.sleep(0)
        if answer is HANG:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, str)
        return turn(str(answer), complete=not isinstance(answer, Cut), num_added=int(isinstance(answer, Stopped)))

    def _fitting(self, history: History) -> History:
        if self.window is not None and len(history.token_ids) > self.window:
            raise ContextOverflow(f"{len(history.token_ids)} tokens, window {self.window}")
        return history


def reflection(step: int, experience: str) -> str:
    return f'{{"step": {step}, "experience": "{experience}"}}'


TASK = Task("corridor-3", "Walk to the end.", "corridor", {"goal": 3})


class Walk:
    """A corridor of cells 0 to `goal`: the rules that the environments below share.

    R walks on (+1), L walks back (-1), J falls into a pit (-1) that nothing leads out of, Q gives up, Z meets the
    environment's own limit. The observation is the cell's number, # in the pit; of any other action, ? as an error.
    ! raises, ~ hangs until released.
    """

    def __init__(self, goal: int, cell: int | None = 0) -> None:
        self.goal = goal
        self.cell = cell
        """None: in the pit."""

    @property
    def observation(self) -> str:
        return "#" if self.cell is None else str(self.cell)

    def move(self, action: str, released: threading.Event) -> Step:
        if action == "!":
            raise RuntimeError("boom")
        if action == "~":
            released.wait()
        if action not in tuple("RLJQZ"):
            return Step("?", 0.0, False, False, {"error": True})
        before = self.cell
        if action == "J":
            self.cell = None
        elif action in "RL" and self.cell is not None:
            self.cell = max(0, self.cell + (1 if action == "R" else -1))
        solved = self.cell == self.goal
        reward = 0.0 if before is None else -1.0 if self.cell is None else float(self.cell - before)
        return Step(self.observation, reward, solved or action == "Q", action == "Z", {"success": solved})


@dataclass
class Ledger:
    """What happened to the environments that one factory made."""

    made: int = 0
    closed: int = 0
    seeds: list[int] = field(default_factory=list)
    steps: int = 0
    """Number of calls of step, without those that `restore` makes."""
    replayed: int = 0
    running: int = 0
    peak_running: int = 0
    """Maximum number of concurrent calls of step, if the environment counts them."""
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def count(self, name: str, number: int = 1) -> None:
        """Add to a field, from any thread."""
        with self._lock:
            setattr(self, name, getattr(self, name) + number)
            self.peak_running = max(self.peak_running, self.running)


class Corridor:
    """`Walk` with snapshots of its own."""

    system_prompt = ""
    horizon = 4

    def __init__(self, ledger: Ledger, broken: str = "", hanging: str = "") -> None:
        """`broken` names a method that raises, `hanging` one that hangs until the environment is closed."""
        self.ledger, self.broken, self.hanging = ledger, broken, hanging
        self.released = threading.Event()
        ledger.count("made")

    def reset(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        self._enter("reset")
        self.ledger.seeds.append(seed)
        self.walk = Walk(task.data["goal"])
        return self.walk.observation, {}

    def step(self, action: str) -> Step:
        self._enter("step")
        self.ledger.count("steps")
        return self.walk.move(action, self.released)

    def snapshot(self) -> Any:
        self._enter("snapshot")
        return {"goal": self.walk.goal, "cell": self.walk.cell}

    def restore(self, snapshot: Any) -> int:
        self._enter("restore")
        self.walk = Walk(**snapshot)
        return 0

    def close(self) -> None:
        self.ledger.count("closed", not self.released.is_set())
        self.released.set()
        self._enter("close")

    def _enter(self, method: str) -> None:
        if method == self.broken:
            raise RuntimeError(f"{method} is broken")
        if method == self.hanging:
            self.released.wait()


class ReplayCorridor(ReplayEnvironment):
    """`Walk` without snapshots, rolled back by replay."""

    horizon = Corridor.horizon

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.released = threading.Event()
        ledger.count("made")

    def start(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        self.ledger.seeds.append(seed)
        self.walk = Walk(task.data["goal"])
        return self.walk.observation, {}

    def advance(self, action: str) -> Step:
        self.ledger.count("steps")
        return self.walk.move(action, self.released)

    def restore(self, snapshot: Any) -> int:
        replayed = super().restore(snapshot)
        self.ledger.count("steps", -replayed)
        self.ledger.count("replayed", replayed)
        return replayed

    def close(self) -> None:
        self.ledger.count("closed", not self.released.is_set())
        self.released.set()


class DriftingCorridor(ReplayCorridor):
    """Shows how many environments were made before it, so that no replay matches its record."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.drift = ledger.made

    def advance(self, action: str) -> Step:
        step = super().advance(action)
        return step._replace(observation=f"{step.observation} drift {self.drift}")


class CrowdedCorridor(Corridor):
    """A corridor that counts concurrent calls of step."""

    def step(self, action: str) -> Step:
        self.ledger.count("running")
        self.released.wait(0.002)  # long enough for others to come in, if anything let them
        self.ledger.count("running", -1)
        return super().step(action)


@dataclass
class World:
    """A factory of environments of one kind, and the ledger of all that it made."""

    kind: Callable[..., Any] = Corridor
    options: Mapping[str, Any] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)

    def __call__(self) -> Any:
        return self.kind(self.ledger, **self.options)


def grow(
    policy: ScriptedPolicy,
    world: World | None = None,
    *,
    roots: int = 1,
    task: Task = TASK,
    slots: int = 4,
    threads: bool = False,
    **settings: Any,
) -> ExplorationTree:
    """Explore `task` to the end. `settings` are those under `leafe`; the defaults are the project's.

    Environment calls run in threads of their own only if asked to: on a busy machine that costs milliseconds each,
    and most tests are of the tree alone.
    """

    async def explore() -> ExplorationTree:
        explorer = Explorer(world or World(), policy, Settings.from_mapping(settings), asyncio.Semaphore(slots))
        # Nothing here takes a second: the limit makes a deadlock a failed test.
        return await asyncio.wait_for(explorer.explore(task, roots), 20)

    with nullcontext() if threads else patch("leafe_verl.core.attempt.call_within", call_inline):
        return asyncio.run(explore())


async def call_inline(seconds: float, what: str, function: Callable[..., Any], *arguments: Any, thread: Any) -> Any:
    """`call_within` without a thread, and so without a time limit."""
    await asyncio.sleep(0)
    try:
        return function(*arguments)
    except Exception as error:
        raise as_failure(what, error) from error


def shape(tree: ExplorationTree) -> list[tuple[int | None, int, str, str]]:
    """Return the parent, first step, actions and outcome of each attempt."""
    return [
        (
            attempt.branch.parent if attempt.branch else None,
            attempt.branch.step if attempt.branch else 1,
            "".join(step.action.text for step in attempt.steps),
            attempt.outcome.value,
        )
        for attempt in tree.attempts
    ]


def wandering(seed: int, **options: Any) -> ScriptedPolicy:
    """A policy that acts at random and reflects well, badly or not at all. Only experiences are in lower case."""

    def draw(messages: Sequence[Message], what: str) -> random.Random:
        return random.Random(f"{seed} {what} {[dict(message) for message in messages]}")

    def act(messages: Sequence[Message]) -> Answer:
        choice = draw(messages, "act").choice
        return choice([*"RRRRLJQ", "X", "RR", Cut("R"), Cut("L")])

    def reflect(messages: Sequence[Message], num_steps: int) -> Answer:
        dice = draw(messages, "reflect")
        step = dice.randint(1, num_steps)
        good = [reflection(step, f"advice {dice.random()}"), f"STEP: {step}\nEXPERIENCE: advice {dice.random()}"]
        return dice.choice([*good, *good, "no idea", reflection(num_steps + 1, "late"), PolicyFailure("no server")])

    return ScriptedPolicy(act, reflect, **options)
