"""Prints what holds in the environment for GPUs, as a table in Markdown; tests/gpu/stack.sh runs it.

Everything but the versions is found out by pytest, in a process for each group of tests. Returns 1 if a test fails, or
if the environment is another one.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "recipes" / "constraints-gpu.txt"
SHOWN = ("verl", "vllm", "torch", "transformers", "ray", "tensordict", "transferqueue", "hydra-core", "flash-attn")
"""Distributions whose versions are shown, by the names that constraints-gpu.txt has for them."""
PRINTED = "found"
"""Property in which a test says what it found."""


@dataclass(frozen=True)
class Group:
    """Tests that one line of the table stands for."""

    what: str
    arguments: tuple[str, ...]
    """pytest's."""
    by_recipe: bool = False
    """Whether the tests have a recipe as their parameter, and each recipe gets a line."""


LOOKED_UP = Group(
    "the plugin in fresh processes; classes, functions and arguments of verl, vLLM, transformers, Ray and Hydra",
    ("tests/plugin/test_what_we_lean_on.py",),
)
RECIPES = Group("recipes for GPUs", ("--costly", "tests/gpu/test_gpu_recipes.py"), by_recipe=True)
FAST = Group("all tests that need neither CUDA nor a run of verl", ("-m", "not end_to_end and not gpu"))
ON_GPUS = Group("tests that need CUDA", ("-m", "gpu", "tests/gpu"))


@dataclass(frozen=True)
class Case:
    """One test that has run."""

    name: str
    outcome: str
    """`passed`, `failed` or `skipped`."""
    found: str
    """What the test says that it found, or why it was skipped or failed; may be empty."""


@dataclass(frozen=True)
class Ran:
    """A group of tests that has run."""

    group: Group
    cases: tuple[Case, ...]
    seconds: float
    status: int
    """pytest's exit status."""

    @property
    def good(self) -> bool:
        return self.status == 0

    def count(self, outcome: str) -> int:
        """Return the number of tests with an outcome."""
        return sum(case.outcome == outcome for case in self.cases)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--without-tests", action="store_true", help="leave out the tests that take minutes")
    options = parser.parse_args(arguments)
    installed = {name: _version(name) for name in SHOWN}
    if installed["vllm"] is None:
        print(
            "this environment has no CUDA build of vLLM; deactivate it, or clone into another folder, and run "
            "tests/gpu/stack.sh there",
            file=sys.stderr,
        )
        return 1
    gpus = _gpus()
    print(f"{datetime.date.today()}, Python {platform.python_version()}, GPUs: {', '.join(gpus) or 'none'}\n")
    print(*_version_lines(installed, _constraints(CONSTRAINTS.read_text())), "", sep="\n", flush=True)
    groups = [LOOKED_UP, RECIPES, *([] if options.without_tests else [FAST, *([ON_GPUS] if gpus else [])])]
    ran = []
    for group in groups:
        ran.append(_run(group))
        print(*_group_lines(ran[-1]), "", sep="\n", flush=True)
    return int(not all(each.good for each in ran))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _constraints(text: str) -> dict[str, str]:
    """Return the versions in a constraints file for this Python; a marker that excludes it is no line."""
    from packaging.requirements import Requirement

    wanted = (Requirement(line) for line in text.splitlines() if line and not line.startswith("#"))
    fitting = (each for each in wanted if each.marker is None or each.marker.evaluate())
    return {each.name: str(each.specifier).removeprefix("==") for each in fitting}


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]


def _version_lines(installed: Mapping[str, str | None], constraints: Mapping[str, str]) -> Iterator[str]:
    yield from ("| distribution | installed | in constraints-gpu.txt |", "| --- | --- | --- |")
    for name, found in installed.items():
        yield f"| {name} | {found or 'not installed'} | {constraints.get(name, 'not there')} |"


def _run(group: Group) -> Ran:
    """Run a group of tests in a process of its own, which shows what fails."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"]
        begun = time.monotonic()
        done = subprocess.run(
            [*command, *group.arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        if done.returncode:
            print(done.stdout, file=sys.stderr)
        cases = tuple(_cases(xml.parse(report).iter("testcase"))) if report.exists() else ()
        return Ran(group, cases, time.monotonic() - begun, done.returncode)


def _cases(tests: Iterable[xml.Element]) -> Iterator[Case]:
    """Yield what pytest's report in JUnit's form says of each test."""
    for test in tests:
        told = {each.get("name"): each.get("value", "") for each in test.iter("property")}
        ends = {outcome: test.find(tag) for tag, outcome in _ENDS.items() if test.find(tag) is not None}
        outcome, end = next(iter(ends.items()), ("passed", None))
        reason = "" if end is None else end.get("message", "").split("\n")[0]
        yield Case(test.get("name", ""), outcome, reason or told.get(PRINTED, ""))


_ENDS = {"failure": "failed", "error": "failed", "skipped": "skipped"}
"""Elements of pytest's report -> outcomes."""


def _group_lines(ran: Ran) -> Iterator[str]:
    """Yield how the tests of a group ended, and either each recipe or why tests were skipped."""
    yield from ("| what | passed | failed | skipped | seconds |", "| --- | --- | --- | --- | --- |")
    counts = " | ".join(str(ran.count(outcome)) for outcome in ("passed", "failed", "skipped"))
    yield f"| {ran.group.what} | {counts} | {ran.seconds:.0f} |"
    if ran.group.by_recipe:
        yield from ("", *_recipe_lines(ran.cases))
    elif reasons := sorted({case.found for case in ran.cases if case.outcome == "skipped"}):
        yield from ("", "Skipped:", *(f"- {reason}" for reason in reasons))


def _recipe_lines(cases: Iterable[Case]) -> Iterator[str]:
    """Yield a line for each recipe, with how each of its tests ended."""
    rows: dict[str, dict[str, Case]] = {}
    for case in cases:
        test, _, recipe = case.name.removesuffix("]").partition("[")
        rows.setdefault(recipe, {})[test.removeprefix("test_").replace("_", " ")] = case
    checks = dict.fromkeys(check for row in rows.values() for check in row)
    yield f"| recipe | {' | '.join(checks)} | what it runs |"
    yield "| --- " * (len(checks) + 2) + "|"
    for recipe, row in rows.items():
        outcomes = [row[check].outcome if check in row else "" for check in checks]
        found = "; ".join(case.found for case in row.values() if case.found)
        yield f"| {recipe} | {' | '.join(outcomes)} | {found} |"


if __name__ == "__main__":
    sys.exit(main())
