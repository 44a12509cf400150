"""Environments of `verifiers`: guess a number in turns, add with a tool, and one whose answers no replay repeats."""

from __future__ import annotations

import itertools
from typing import Any

import verifiers as vf
from datasets import Dataset

_ticks = itertools.count()


class Guessing(vf.MultiTurnEnv):  # type: ignore[misc]
    async def setup_state(self, state: Any) -> Any:
        state["number"], state["tries"] = int(state["answer"]), 0
        return state

    async def env_response(self, messages: Any, state: Any, **kwargs: Any) -> Any:
        state["tries"] += 1
        said = str(messages[-1].content).strip()
        if not said.isdecimal() or len(said) > 3:
            return [vf.UserMessage(content=f"Try {state['tries']}: not a number.")]
        if int(said) == state["number"]:
            state["found"] = True
            state["final_env_response"] = [vf.UserMessage(content="That is it.")]
            return state["final_env_response"]
        return [
            vf.UserMessage(content=f"Try {state['tries']}: {'lower' if int(said) > state['number'] else 'higher'}.")
        ]


class Drifting(Guessing):
    async def env_response(self, messages: Any, state: Any, **kwargs: Any) -> Any:
        return [vf.UserMessage(content=f"It is {next(_ticks)} o'clock.")]


def found(state: Any) -> float:
    return float(state.get("found", False))


def has_answer(completion: Any, answer: str) -> float:
    return float(answer in str(completion[-1].content))


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def load_environment(kind: str = "guessing") -> Any:
    rows = [{"question": "Guess my number.", "answer": answer} for answer in ("42", "7")]
    told: Any = {"dataset": Dataset.from_list(rows), "system_prompt": "Answer with digits alone."}
    if kind == "tools":
        sums = Dataset.from_list([{"question": "What are 17 and 25?", "answer": "42"}])
        return vf.ToolEnv(tools=[add], dataset=sums, rubric=vf.Rubric(funcs=[has_answer]))
    return {"guessing": Guessing, "drifting": Drifting}[kind](rubric=vf.Rubric(funcs=[found]), **told)
