"""The workspace environment: files are edited here, and programs run in the sandbox, on a copy of them."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leafe_verl.core.environment import Step
from leafe_verl.core.task import Task
from leafe_verl.environments.failed_verdicts import failed_verdicts
from leafe_verl.environments.hidden_tests import limits_after
from leafe_verl.environments.options import require_whole
from leafe_verl.environments.sandbox_options import OUTPUT_KB, choose_sandbox, run_limits
from leafe_verl.environments.state_environment import StateEnvironment
from leafe_verl.environments.workspace import suite
from leafe_verl.environments.workspace.actions import (
    USAGE,
    Edit,
    Refused,
    RunTests,
    describe,
    list_files,
    parse_action,
)
from leafe_verl.environments.workspace.rows import build_folder, parse_task
from leafe_verl.environments.workspace.snapshots import Folder
from leafe_verl.sandbox import CodeVerdict, Limits, Sandbox, SandboxLost, cut_middle, judge
from leafe_verl.sandbox.programs import describe_ending
from leafe_verl.sandbox.protocol import FOLDER_TOO_LARGE, LOST, OUTPUT_TOO_LARGE, TIMEOUT

HORIZON = 20
SYSTEM_PROMPT = f"""\
You work on the files of a small Python repository whose tests fail. Find the defect and fix it, so that all tests \
pass, also some that you do not see. Each turn, write one thought, and then one action:
{USAGE}
As in:
Thought: The loop ends too early.
Action: edit shop/cart.py 12-12
```
    for index in range(len(items)):
```"""
_TEST_FILE = re.compile(r"(?:.*/)?test_\w+\.py")


@dataclass(frozen=True)
class WorkspaceState:
    task: Task
    files: Folder
    edited: bool = False
    """Whether any edit was made."""
    score: float = 0.0
    """What the last run of the tests was worth; see `Workspace`. The rewards so far add up to it."""


class Workspace(StateEnvironment[WorkspaceState]):
    """An attempt's return is the share of the hidden tests to fix that passed when the tests were last run.

    It is 0 as long as a hidden test fails that passed at first. The hidden tests are calls, whose values are compared
    outside of the process that they run in; what the repository's own tests say is only shown. An attempt is solved by
    a run of the tests in which all hidden ones pass.
    """

    ability = "code"

    def __init__(
        self,
        sandbox: Sandbox | None = None,
        cpu_seconds: float = Limits.cpu_seconds,
        wall_seconds: float = Limits.wall_seconds,
        memory_mb: int = 512,
        output_kb: int = OUTPUT_KB,
        feedback_characters: int = 3000,
        system_prompt: str = SYSTEM_PROMPT,
        horizon: int = HORIZON,
        allow_unconfined: bool = False,
        sandbox_workers: int | None = None,
        remember_failures: bool = True,
    ) -> None:
        """`cpu_seconds`, `wall_seconds`, `memory_mb` (MiB) and `output_kb` (KiB) bound one run; see `sandbox.Limits`.

        `feedback_characters`: longest observation after the first. `horizon`: actions after which an attempt ends.
        `allow_unconfined`: run programs even where nothing but resource limits would confine them. `sandbox_workers`:
        runs at a time of all workspaces of a process together; None for one per processor. `remember_failures`: the
        same files are not judged again in the same tree once they have failed, unless time, memory or the sandbox was
        the reason.
        """
        require_whole(1, horizon=horizon)
        require_whole(200, feedback_characters=feedback_characters)
        self.system_prompt = system_prompt
        self.horizon = horizon
        self.feedback_characters = feedback_characters
        self.remember_failures = remember_failures
        self._sandbox = choose_sandbox(sandbox, sandbox_workers, allow_unconfined, with_folder=True)
        self._limits = run_limits(cpu_seconds, memory_mb, wall_seconds, output_kb)

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Return the task of a row; see `rows.parse_task`."""
        return parse_task(row, default_key)

    def reset(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        files = build_folder(task.data)
        self.state = WorkspaceState(task, files)
        return f"{task.instruction}\n\nThe files:\n{list_files(files)}", {}

    def step(self, action: str) -> Step:
        try:
            parsed = parse_action(action)
            if isinstance(parsed, RunTests):
                return self._test()
            if isinstance(parsed, Edit):
                files, observation = parsed.play(self.state.files)
                self.state = replace(self.state, files=files, edited=True)
            else:
                observation = parsed.play(self.state.files)
        except Refused as refusal:
            return self._told(str(refusal), error=True)
        return self._told(observation, action=describe(parsed))

    def _told(self, observation: str, *, error: bool = False, **info: Any) -> Step:
        # The tokenizer refuses lone surrogates.
        text = observation.encode("utf-8", "backslashreplace").decode()
        text = cut_middle(text, self.feedback_characters)
        return Step(text, 0.0, False, False, {"success": False, "error": error, **info})

    # --- Tests ---

    def _test(self) -> Step:
        before, begun = self.state, time.monotonic()
        verdict = self._recall_or_judge(before.task, before.files)
        score = _score(verdict, len(before.task.data["fail_to_pass"]))
        self.state = replace(before, score=score)
        solved = verdict.all_passed
        hidden = f"{verdict.passed} of {len(verdict.tests)} hidden tests pass."
        step = self._told(
            hidden if solved else f"{self._run_suite(before.files, limits_after(begun, self._limits))}\n{hidden}",
            # Before any edit, a test that fails is what the agent wants to see, and no failure of its own.
            error=before.edited and not solved,
            action="test",
            passed=verdict.passed,
            total=len(verdict.tests),
            timed_out=verdict.timed_out,
        )
        return step._replace(reward=score - before.score, terminated=solved, info={**step.info, "success": solved})

    def _recall_or_judge(self, task: Task, files: Folder) -> CodeVerdict:
        if not self.remember_failures:
            return self._judge(task, files)
        key = (type(self), self._sandbox, self._limits, files.digest)
        return failed_verdicts(task).recall(key, lambda: self._judge(task, files))

    def _judge(self, task: Task, files: Folder) -> CodeVerdict:
        data = task.data
        tests = [*data["fail_to_pass"], *data["pass_to_pass"]]
        return judge(data["imports"], tests, "", self._sandbox, self._limits, files=files.files())

    def _run_suite(self, files: Folder, limits: Limits) -> str:
        """Return what the repository's own tests print, and what ended them."""
        modules = "\n".join(suite_modules(files))
        run = self._sandbox.execute(_suite_source(), modules, limits, files.files()).result()
        if run.failure == LOST:
            raise SandboxLost("the sandbox broke twice before the tests could run")
        ending = "" if run.failure is None else describe_ending(run.failure, _ENDINGS) or run.failure
        return "\n".join(filter(None, (_without_addresses(run.stdout).strip(), ending))) or "The tests print nothing."


def suite_modules(files: Folder) -> list[str]:
    """Return the names of the modules that hold a repository's tests."""
    paths = (path for path in files.files() if _TEST_FILE.fullmatch(path))
    return [path.removesuffix(".py").replace("/", ".") for path in paths]


def _score(verdict: CodeVerdict, to_fix: int) -> float:
    fixed, kept = verdict.tests[:to_fix], verdict.tests[to_fix:]
    return sum(test.passed for test in fixed) / to_fix if all(test.passed for test in kept) else 0.0


@functools.cache
def _suite_source() -> str:
    return Path(suite.__file__).read_text(encoding="utf-8")


def _without_addresses(text: str) -> str:
    """Return a text without addresses of objects, which differ from run to run."""
    return re.sub(r"\b0x[0-9a-f]{6,}\b", "0x...", text)


_ENDINGS = {
    TIMEOUT: "The tests ran into their time limit.",
    OUTPUT_TOO_LARGE: "The tests printed too much.",
    FOLDER_TOO_LARGE: "The tests wrote too many files.",
}
