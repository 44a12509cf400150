"""Running model-written code and judging it. Standard library only; `protocol.py` has the nouns.

judge.py         asserts and code in, CodeVerdict out; compares values outside of the sandbox
asserts.py       an assert into the solution's calls and the check on what they return
programs.py      whole programs: stdin in, stdout compared outside of the sandbox
pool.py          SandboxPool: a queue of runs for a few zygotes; worker.py, one zygote seen from here
tiers.py         what holds a run, from the firmest tier
zygote.py        the program that forks a process for each run; confinement.py, what that gives up first
driver.py        what the process then does; values.py, plain values from and to text
"""

from leafe_verl.sandbox.asserts import SplitAssert, split_assert
from leafe_verl.sandbox.judge import CodeVerdict, TestResult, cut_middle, judge
from leafe_verl.sandbox.pool import SandboxPool, available_tiers, default_pool, sandboxes_lost
from leafe_verl.sandbox.programs import OutputComparison, ProgramTest, judge_program
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
    "CodeVerdict",
    "Limits",
    "OutputComparison",
    "ProgramResult",
    "ProgramTest",
    "RunResult",
    "Sandbox",
    "SandboxLost",
    "SandboxPool",
    "SplitAssert",
    "TestResult",
    "available_tiers",
    "cut_middle",
    "default_pool",
    "judge",
    "judge_program",
    "sandboxes_lost",
    "split_assert",
]
