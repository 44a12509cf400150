"""Running model-written code and judging it. Standard library only; `protocol.py` has the nouns.

judge.py         asserts and code in, Verdict out; compares values outside of the sandbox
asserts.py       an assert into the solution's calls and the check on what they return
process.py       ProcessSandbox: one fresh process a run
driver.py        the program of that process; confinement.py, what it gives up first
values.py        plain values from and to text
"""

from leafe_verl.sandbox.asserts import SplitAssert, split_assert
from leafe_verl.sandbox.judge import TestResult, Verdict, judge, shorten
from leafe_verl.sandbox.process import ProcessSandbox
from leafe_verl.sandbox.protocol import CallOutcome, CallResult, Limits, RunResult, Sandbox

__all__ = [
    "CallOutcome",
    "CallResult",
    "Limits",
    "ProcessSandbox",
    "RunResult",
    "Sandbox",
    "SplitAssert",
    "TestResult",
    "Verdict",
    "judge",
    "shorten",
    "split_assert",
]
