"""Running model-written code and judging it. Standard library only; `protocol.py` has the nouns.

judge.py         asserts and code in, Verdict out; compares values outside of the sandbox
asserts.py       an assert into the solution's calls and the check on what they return
programs.py      whole programs: stdin in, stdout compared outside of the sandbox
pool.py          SandboxPool: a queue of runs for a few zygotes; worker.py, one zygote seen from here
tiers.py         what holds a run, from the firmest tier
zygote.py        the program that forks a process for each run; confinement.py, what that gives up first
driver.py        what the process then does; values.py, plain values from and to text
"""

from leafe_verl.sandbox.asserts import SplitAssert, split_assert
from leafe_verl.sandbox.judge import TestResult, Verdict, judge, shorten
from leafe_verl.sandbox.pool import SandboxPool, available_tiers, default_pool, sandboxes_lost
from leafe_verl.sandbox.programs import Comparison, ProgramTest, judge_program
from leafe_verl.sandbox.protocol import (
    CallOutcome,
    CallResult,
    Limits,
    ProgramResult,
    RunResult,
    Sandbox,
    SandboxLost,
)

__all__ = [
    "CallOutcome",
    "CallResult",
    "Comparison",
    "Limits",
    "ProgramResult",
    "ProgramTest",
    "RunResult",
    "Sandbox",
    "SandboxLost",
    "SandboxPool",
    "SplitAssert",
    "TestResult",
    "Verdict",
    "available_tiers",
    "default_pool",
    "judge",
    "judge_program",
    "sandboxes_lost",
    "shorten",
    "split_assert",
]
