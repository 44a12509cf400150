"""ALFWorld (arXiv 2010.03768): household tasks in text. Each simulator runs in a process of its own."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leafe_verl.core.environment import ReplayDivergence, ReplaySnapshot, Step, describe_step
from leafe_verl.core.task import Task
from leafe_verl.environments.alfworld_commands import MOVE, as_offered, placing_form
from leafe_verl.environments.alfworld_games import KINDS
from leafe_verl.environments.options import require_whole
from leafe_verl.environments.react import FORM, NO_ACTION, extract_command
from leafe_verl.environments.rows import read_count, read_fields, task_key
from leafe_verl.environments.simulator import SimulatorEnvironment, pool_from_options
from leafe_verl.environments.simulator_process import SimulatorProgram

NAME = "alfworld"
EXTRA = "pip install leafe-verl[alfworld]"
SYSTEM_PROMPT = f"""\
You do a household task in text. Where something stands you see when you go there; what is closed, you open first.
Actions: go to R, open R, close R, take O from R, move O to R, examine R, examine O, use O, clean O with R, \
heat O with R, cool O with R, look, inventory; O is an object and R a receptacle, each with its number. You carry \
one object at a time. Clean at a sinkbasin, heat with a microwave, cool with a fridge.
{FORM.format(thought="An apple may be in the fridge, so I go there first.", action="go to fridge 1")}"""
NUM_GAMES = 32
"""Games that a process keeps in memory; reading one takes about 0.2 s."""


@dataclass(frozen=True)
class ALFWorldSnapshot(ReplaySnapshot):
    """A state, with the planner's operators that lead to it without playing."""

    operators: tuple[str | None, ...]
    """One operator for each action; None if the action changed nothing."""
    facts: str
    """SHA-256 of all facts that are true in the state."""


class ALFWorld(SimulatorEnvironment):
    """An attempt's return is 1 if the task is done, else 0.

    An action that is not admissible changes nothing and costs a step; the observation says so. The default system
    prompt and the list of admissible actions offer the form in which the game is told to place an object, `move O to R`
    or `put O in/on R`, and the other form is read as well. Rollback applies the
    recorded operators to the start of the game, and checks all facts of the state and the last observation.
    """

    ability = "household"

    def __init__(
        self,
        horizon: int = 50,
        admissible_commands: bool = True,
        data: str | None = None,
        system_prompt: str = SYSTEM_PROMPT,
        processes: int | None = None,
        **limits: float,
    ) -> None:
        """`horizon`: actions after which an attempt ends; 50 in the literature.

        `admissible_commands`: whether each observation ends with the list of admissible actions. `data`: the folder to
        which the paths of downloaded games are relative; None for ALFWORLD_DATA. `processes`: simulators that the
        environments of a process (a rollout worker) share; None for one per processor. `limits`: the fields of
        `SimulatorLimits`. Raises RuntimeError if the extra is not installed.
        """
        require_whole(1, horizon=horizon)
        super().__init__(pool_from_options(PROGRAM, missing(), processes, limits))
        self.system_prompt = self._own_prompt = system_prompt
        self.horizon = horizon
        self.admissible_commands = admissible_commands
        self._data = Path(data or os.environ.get("ALFWORLD_DATA", ".")).expanduser()
        self._operators: tuple[str | None, ...] = ()
        self._facts = ""
        self._admissible: tuple[str, ...] = ()

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Return the task of {"game": path}, of {"kind": ..., "seed": n}, or of a row of verl's parquet files.

        `game` is a game.tw-pddl file of `alfworld-download`. A kind (of `alfworld_games.KINDS`) and a seed make a
        kitchen. The key is `task_id`, by default made of these. Raises ValueError that says what came and what was
        expected.
        """
        fields = read_fields(row)
        game, kind, seed = fields.get("game"), fields.get("kind"), read_count(fields, "seed")
        if isinstance(game, str) and game and kind is None and seed is None:
            data: dict[str, Any] = {"game": game}
            default, words = game, f"The task of {game}."
        elif game is None and kind in KINDS and seed is not None:
            data = {"kind": kind, "seed": seed}
            default, words = f"{kind}-{seed}", f"{kind} in kitchen {seed}."
        else:
            raise ValueError(
                f"game is {game!r:.80}, kind {kind!r:.80} and seed {seed!r}; expected the path of a game, or a kind "
                f"({', '.join(KINDS)}) and the seed of a kitchen"
            )
        return Task(task_key(fields, default), fields.get("text") or words, NAME, data)

    def start(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        # The seed is not used: a game has only one start.
        state = self.call("load", self._game(task))
        self._operators = ()
        self._take_in(state)
        return self._shown(state["observation"], state), {}

    def advance(self, action: str) -> Step:
        command = extract_command(action)
        command = command and as_offered(command, self._admissible)
        state = self.call("act", command)
        self._operators = (*self._operators, state["operator"])
        self._take_in(state)
        observation = NO_ACTION if command is None else state["observation"]
        return Step(
            observation=self._shown(observation, state),
            reward=float(state["won"]),
            terminated=state["won"],
            truncated=False,
            info={"success": state["won"], "error": state["operator"] is None}
            | ({"action": command} if command else {}),
        )

    def snapshot(self) -> ALFWorldSnapshot:
        return ALFWorldSnapshot(**vars(super().snapshot()), operators=self._operators, facts=self._facts)

    def restore(self, snapshot: ReplaySnapshot) -> int:
        """Apply the recorded operators. Raises ReplayDivergence if the state differs."""
        if not isinstance(snapshot, ALFWorldSnapshot):
            return super().restore(snapshot)
        with self.borrowed():
            state = self.call("restore", self._game(snapshot.task), snapshot.operators)
        if state["facts"] != snapshot.facts:
            raise ReplayDivergence(
                f"task {snapshot.task.key!r}: after {len(snapshot.operators)} operators the state differs from the "
                f"recorded one; has the game changed?"
            )
        if snapshot.operators and snapshot.operators[-1] is not None:
            last = Step(self._shown(state["observation"], state), float(state["won"]), state["won"], False, {})
            self._check(snapshot, len(snapshot.actions), describe_step(last))
        self._record = ReplaySnapshot(snapshot.task, snapshot.seed, snapshot.actions, snapshot.digests)
        self._operators = snapshot.operators
        self._take_in(state)
        self._lease.steps = len(snapshot.actions)
        return len(snapshot.actions)

    def _game(self, task: Task) -> Mapping[str, Any]:
        game = task.data.get("game")
        return task.data if game is None else {"game": str((self._data / game).resolve())}

    def _take_in(self, state: Mapping[str, Any]) -> None:
        """Keep what the simulator tells of the present state, and what form of commands the game has."""
        self._facts, self._admissible = state["facts"], tuple(state["admissible"])
        if self._own_prompt == SYSTEM_PROMPT:
            self.system_prompt = SYSTEM_PROMPT.replace(MOVE, state["placing"])

    def _shown(self, observation: str, state: Mapping[str, Any]) -> str:
        if not self.admissible_commands or state["won"]:
            return observation
        return f"{observation}\nAdmissible actions: {', '.join(state['admissible'])}."


def missing() -> str | None:
    """Return what is not installed and the command that installs it; None if ALFWorld can be played."""
    if all(importlib.util.find_spec(name) for name in ("alfworld", "textworld", "fast_downward")):
        return None
    return f"ALFWorld is not installed; fix it with: {EXTRA}"


class ALFWorldSimulator:
    """The package's PDDL game behind methods that take and return JSON values. Runs in a worker process."""

    def __init__(self) -> None:
        import fast_downward
        import textworld
        from textworld.envs.pddl import PddlEnv

        # Translating a problem takes most of a reset, and every attempt and rollback starts a game.
        fast_downward.pddl2sas = functools.lru_cache(maxsize=2 * NUM_GAMES)(fast_downward.pddl2sas)
        self._env = PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True))
        self._games: dict[str, tuple[Any, ...]] = {}
        self._placing = MOVE

    def load(self, game: dict[str, Any]) -> dict[str, Any]:
        """Start a game: {"game": path} or {"kind", "seed"}."""
        self._open(game)
        state = self._env.reset()
        return self._state(state.feedback, None)

    def act(self, command: str | None) -> dict[str, Any]:
        """Execute one command. None, or a command that is not admissible, changes nothing."""
        state, _, _ = self._env.step(command or "")
        return self._state(state.feedback, state["_last_action"])

    def restore(self, game: dict[str, Any], operators: list[str | None]) -> dict[str, Any]:
        """Start a game and apply operators by name.

        The observations in between, which take most of the time of a step, are not derived.
        """
        from textworld.envs.pddl.logic import PddlState

        self._open(game)
        env = self._env
        env._pddl_state = PddlState(env.downward_lib, env._game_data["pddl_problem"], env._logic)
        names = [name for name in operators if name is not None]
        for name in names[:-1]:
            self._apply(name)
        last = next((each for each in env._pddl_state.all_applicable_actions() if _operator(each) in names[-1:]), None)
        if names and last is None:
            raise ValueError(f"operator {names[-1]!r} cannot be applied; has the game changed?")
        if last is not None:
            env._pddl_state.apply(last)
        return self._state(self._settle(last), last)

    def walkthrough(self, game: dict[str, Any]) -> list[str]:
        """Return the planner's commands from the start to the goal; empty if it finds no way."""
        self._open(game)
        self._env.reset()
        return list(self._env._pddl_state.replan(self._env._entity_infos))

    def _apply(self, name: str) -> None:
        """Apply an operator by its name, without the commands that the package would derive."""
        from fast_downward import Operator

        state = self._env._pddl_state
        operators = (Operator * state.downward_lib.get_applicable_operators_count())()
        state.downward_lib.get_applicable_operators(operators)
        found = next((each for each in operators if each.name == name), None)
        if found is None:
            raise ValueError(f"operator {name!r} cannot be applied; has the game changed?")
        state._operators = {found.id: found}
        state.apply(found)

    def _settle(self, last: Any) -> str:
        """Derive what `PddlEnv.step` would derive after the action `last` (None: the start of the game).

        Returns the observation after the action; an empty text for the start.
        """
        from textworld.core import GameState

        env = self._env
        env.state, env._last_action, feedback = GameState(), last, ""
        if last is not None:
            infos, facts = env._entity_infos, list(env._pddl_state.facts)
            variables = {placeholder.name: infos[each.name] for placeholder, each in last.mapping.items()}
            context = {"state": env._pddl_state, "facts": facts, "variables": variables, "mapping": last.mapping}
            feedback = env._logic.grammar.derive(last.feedback_rule, {**context, "entity_infos": infos})
        env.state.feedback, env._moves = feedback, 0
        env._gather_infos()
        return str(feedback)

    def _open(self, game: dict[str, Any]) -> None:
        key = json.dumps(game)
        if key not in self._games:
            content = _read(game)
            placing = placing_form(content["grammar"])
            self._env.load(content)
            _name_entities(self._env._entity_infos)
            if len(self._games) == NUM_GAMES:
                del self._games[next(iter(self._games))]
            self._games[key] = (self._env._game_data, self._env._logic, self._env._entity_infos, placing)
        self._env._game_data, self._env._logic, self._env._entity_infos, self._placing = self._games[key]

    def _state(self, observation: str, last: Any) -> dict[str, Any]:
        state = self._env.state
        # Sorted, because the order of the facts differs between processes.
        facts = "\n".join(sorted(map(str, self._env._pddl_state.facts)))
        return {
            "observation": observation,
            "won": bool(state["won"]),
            "admissible": state["admissible_commands"],
            "operator": None if last is None else _operator(last),
            "facts": hashlib.sha256(facts.encode()).hexdigest(),
            "placing": self._placing,
        }


def _name_entities(infos: Mapping[str, Any]) -> None:
    """Give the entities of a game the names of the benchmark, such as `apple 1` for Apple_bar_3."""
    from alfworld.agents.utils.misc import Demangler

    names = Demangler(game_infos=infos, shuffle=False)
    for info in infos.values():
        info.name = names.demangle_alfred_name(info.id)


def _operator(action: Any) -> str:
    """Return the name of a grounded action. Unlike its number, the name is the same in every process."""
    return " ".join([action.name, *(each.name for each in action.mapping.values())])


def _read(game: Mapping[str, Any]) -> dict[str, Any]:
    if "game" in game:
        return dict(json.loads(Path(game["game"]).read_text(encoding="utf-8")))
    from leafe_verl.environments.alfworld_games import build_game, make_kitchen

    return build_game(make_kitchen(game["seed"], game["kind"]), game["seed"])


PROGRAM = SimulatorProgram(
    "leafe_verl.environments.alfworld:ALFWorldSimulator",
    # Without these, numpy would start a thread per processor, and the package would create a folder in the user's home.
    variables=(("OPENBLAS_NUM_THREADS", "1"), ("ALFWORLD_DATA", "/")),
)
