"""Makes the embedded task files: defects in the packages of `repositories`, each with the patch that repairs it.

    python -m leafe_verl.environments.workspace.generate --into leafe_verl/data

The same seed gives the same files. A defect is kept if hidden tests catch it, some of them still pass, the repository's
own tests fail because of it, and nothing runs into a time limit. The packages of HELD_OUT are not trained on.
"""

from __future__ import annotations

import argparse
import ast
import collections
import difflib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leafe_verl.environments.workspace.environment import Workspace
from leafe_verl.environments.workspace.mutations import Defect, find_defects
from leafe_verl.environments.workspace.rows import pack_files, parse_task
from leafe_verl.environments.workspace.snapshots import Folder, read_folder
from leafe_verl.sandbox import CodeVerdict, File, Limits, Sandbox, default_pool, judge

HERE = Path(__file__).parent
PACKAGES = ("ledger", "paragraphs", "grids", "workdays", "stock", "formulas", "networks", "league")
HELD_OUT = ("networks", "league")
TASKS_A_PACKAGE = 12
TASKS_A_KIND = 3
"""Maximum number of tasks of a package with the same kind of defect."""
LIMITS = Limits(cpu_seconds=2, wall_seconds=20)
SEED = 0
TEXT = """\
Since the latest change to the package `{name}`, tests fail:
{tests}
{about} Find the defect in `{name}` and repair it. Other tests, which you do not see, call the package, too."""


@dataclass(frozen=True)
class Package:
    """A package without defects."""

    name: str
    about: str
    """What it is for, in a sentence."""
    files: Folder
    imports: str
    """Source that makes the names known that the hidden tests call."""
    tests: tuple[str, ...]
    """The hidden tests, which are asserts."""


def read_package(name: str) -> Package:
    """Return a package of `repositories` with its hidden tests."""
    source = (HERE / "hidden" / f"{name}.py").read_text(encoding="utf-8")
    nodes = ast.parse(source).body
    parts = [(ast.get_source_segment(source, node) or "", isinstance(node, ast.Assert)) for node in nodes]
    imports = "\n".join(part for part, is_test in parts if not is_test)
    tests = tuple(part for part, is_test in parts if is_test)
    folder = HERE / "repositories" / name
    about = (folder / "README.md").read_text(encoding="utf-8").strip()
    return Package(name, about, read_folder(folder), imports, tests)


def make_rows(name: str, seed: int, sandbox: Sandbox, number: int = TASKS_A_PACKAGE) -> Iterator[dict[str, Any]]:
    """Yield the rows of a package's tasks, of as many kinds of defects and functions as there are."""
    package = read_package(name)
    candidates = [
        (path, defect)
        for path, file in package.files.files().items()
        if isinstance(file, File) and path.startswith(f"{name}/") and path.endswith(".py")
        for defect in find_defects(file.content.decode())
    ]
    random.Random(f"{name} {seed}").shuffle(candidates)
    kinds: collections.Counter[str] = collections.Counter()
    lines: set[tuple[str, int]] = set()
    for path, defect in candidates:
        if sum(kinds.values()) == number:
            return
        if kinds[defect.kind] == TASKS_A_KIND or (path, defect.line) in lines:
            continue
        row = _make_row(package, path, defect, sandbox)
        if row is not None:
            kinds[defect.kind] += 1
            lines.add((path, defect.line))
            yield {"task_id": f"{name}-{sum(kinds.values())}", **row}


def _make_row(package: Package, path: str, defect: Defect, sandbox: Sandbox) -> dict[str, Any] | None:
    """Return a row without its key; None if the defect does not serve as a task."""
    broken = package.files.with_node(path, File(defect.source.encode()))
    verdict = judge(package.imports, package.tests, "", sandbox, LIMITS, files=broken.files())
    if verdict.all_passed or not verdict.passed or verdict.timed_out:
        return None
    fail, keep = _split(verdict)
    row = {
        "text": "-",
        "kind": defect.kind,
        "files": pack_files(broken.files()),
        "imports": package.imports,
        "fail_to_pass": fail,
        "pass_to_pass": keep,
        "patch": _patch(path, defect.source, package.files),
    }
    failing = _failing_tests(row, sandbox)
    if not failing:
        return None
    tests = "\n".join(f"- {each}" for each in failing)
    return {**row, "text": TEXT.format(name=package.name, tests=tests, about=package.about)}


def _split(verdict: CodeVerdict) -> tuple[list[str], list[str]]:
    fail, keep = ([test.source for test in verdict.tests if test.passed == passed] for passed in (False, True))
    return fail, keep


def _failing_tests(row: dict[str, Any], sandbox: Sandbox) -> list[str]:
    """Return the names of the repository's own tests that fail; none if they end in another way."""
    environment = Workspace(sandbox, cpu_seconds=LIMITS.cpu_seconds, feedback_characters=10**6)
    environment.reset(parse_task(row, "-"), 0)
    step = environment.step("Action: test")
    lines = step.observation.splitlines()
    names = [line.split()[1] for line in lines if line.startswith("FAILED")]
    return names if any(line.endswith(f"{len(names)} failed") for line in lines) else []


def _patch(path: str, broken: str, files: Folder) -> str:
    """Return the unified diff that repairs a file."""
    node = files.find(path)
    assert isinstance(node, File)
    before, after = (text.splitlines(keepends=True) for text in (broken, node.content.decode()))
    return "".join(difflib.unified_diff(before, after, f"a/{path}", f"b/{path}", n=0))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", required=True, help="folder of embedded_workspace_{train,heldout}.jsonl")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args(arguments)
    sandbox = default_pool(with_folder=True)
    rows = {name: list(make_rows(name, options.seed, sandbox)) for name in PACKAGES}
    for split, names in (("train", [n for n in PACKAGES if n not in HELD_OUT]), ("heldout", HELD_OUT)):
        lines = [json.dumps(row) + "\n" for name in names for row in rows[name]]
        path = Path(options.into, f"embedded_workspace_{split}.jsonl")
        path.write_text("".join(lines), encoding="utf-8")
        print(f"{path}: {len(lines)} tasks")


if __name__ == "__main__":
    main()
