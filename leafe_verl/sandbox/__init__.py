"""Runs model-written code and judges it. Needs only the standard library.

protocol.py      the types: limits, results, and the interface of a sandbox
judge.py         judges code by asserts; compares values outside of the sandbox
asserts.py       splits an assert into the solution's calls and the check of what they return
soundness.py     refuses asserts that a solution would decide by itself, or that none passes
raising.py       splits an assert that a call raises
programs.py      judges whole programs by stdin and stdout; compares outside of the sandbox
pool.py          SandboxPool: a queue of runs for a few zygotes
worker.py        one zygote as the pool sees it
answers.py       parses the output of a run
tiers.py         the ways to confine a run; tier_choice.py finds the firmest one that works here
zygote.py        the program that forks a process for each run
confinement.py   the rights that this process gives up before it runs submitted code
unpacking.py     how a run's folder is filled, in that process
scratch.py       the folder in which runs may write, as the judge sees it
usage.py         what a run uses that no limit of the kernel bounds
driver.py        what the process then does
encoding.py      conversion of what a call returned to text, in that process
values.py        conversion of values from and to text
tolerance.py     how far a number may be from the expected one
"""

from leafe_verl.sandbox.asserts import SplitAssert, split_assert
from leafe_verl.sandbox.judge import CodeVerdict, TestResult, cut_middle, judge
from leafe_verl.sandbox.pool import SandboxPool, default_pool, sandboxes_lost
from leafe_verl.sandbox.programs import OutputComparison, ProgramTest, judge_program
from leafe_verl.sandbox.protocol import (
    CallOutcome,
    CallResult,
    File,
    Files,
    Limits,
    Link,
    ProgramResult,
    RunResult,
    Sandbox,
    SandboxLost,
)
from leafe_verl.sandbox.raising import split_test
from leafe_verl.sandbox.tier_choice import available_tiers
from leafe_verl.sandbox.tolerance import Tolerance

__all__ = [
    "CallOutcome",
    "CallResult",
    "CodeVerdict",
    "File",
    "Files",
    "Limits",
    "Link",
    "OutputComparison",
    "ProgramResult",
    "ProgramTest",
    "RunResult",
    "Sandbox",
    "SandboxLost",
    "SandboxPool",
    "SplitAssert",
    "TestResult",
    "Tolerance",
    "available_tiers",
    "cut_middle",
    "default_pool",
    "judge",
    "judge_program",
    "sandboxes_lost",
    "split_assert",
    "split_test",
]
