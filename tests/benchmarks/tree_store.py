"""What a store of many small trees costs: processor time and memory of each command that reads it, as the store grows.

    python tests/benchmarks/tree_store.py --sizes 1000 10000 100000 --against ../older-checkout

Trees have three roots and one branch, of one or two turns, and a reflection, with tokens, as a step on MBPP leaves
them. Each has a record batch of its own, as training writes it, spread over 8 files. Commands run in processes of their
own, one after the other:

write     the store itself, without waiting for the disk
open      the key of every tree is read, and where it is
list      leafe-verl trees list
resume    what a run does with the store of its earlier steps: a rollout worker looks up a tree of the last step, the
          preflight compares precisions and tokenizers, and `watch` looks at the run
filter    leafe-verl trees filter: copies the trees of solved tasks
export    leafe-verl trees export: Parquet for verl's trainer
report    leafe-verl report

`--against` names a checkout whose code does the same, in turn, on stores that it has written: the alternative of the
ratios. Time is that of a process's cores, so that other work on the machine counts less. Memory is the largest amount
that belongs to the process alone: pages of mapped files, which the system takes back when it needs them, do not count.
A command that takes more than `--limit` GiB is ended. Prints tables and, last, a line of JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from leafe_verl.core import Attempt, Branch, ExplorationTree, History, Outcome, Reflection, StepRecord, Task, Turn
from leafe_verl.trees import SCHEMA, Provenance
from leafe_verl.trees.rows import to_row
from leafe_verl.trees.writer import RecordFile, make_folder
from runs import ROOT, print_table, ratio

MIB = 1 << 20
FILES, TASKS, TASKS_OF_A_STEP, TEMPLATES = 8, 1000, 16, 64
"""Files of a store; different tasks; trees of a training step; different trees, of which the others are copies."""
PROMPT, ACTION, FEEDBACK, EXPERIENCE = 350, 110, 60, 45
"""Mean numbers of tokens."""
POLL_SECONDS = 0.02

OPEN = "import sys; from leafe_verl.trees import index; index(sys.argv[1])"
RESUME = """
import sys
from inspect import signature
from pathlib import Path
from leafe_verl.plugin.rollout.collected import CollectedTrees
from leafe_verl.report.progress import RunFollower
from leafe_verl.trees import read_rows
store, step, key = sys.argv[1], int(sys.argv[2]), sys.argv[3]
assert {row["dtype"] for _, row in read_rows(store, ("dtype",))} == {"float32"}
view = {"run": "run", "tokenizer": "49152-abcdef"}
if "run" not in signature(CollectedTrees).parameters:  # an older checkout, which compares neither
    view = {}
assert not view or {row["tokenizer"] for _, row in read_rows(store, ("tokenizer", "model"))} == {view["tokenizer"]}
assert CollectedTrees(store, **view).find(step, key) is not None
assert RunFollower(Path(store).parent.parent).look().done == step
"""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one process took."""

    seconds: float
    """Of its cores."""
    mib: float
    """Largest amount of memory that belonged to it alone."""
    ended: bool = False
    """Whether it was ended because of the limit."""

    def __str__(self) -> str:
        return f"over {self.mib:,.0f} MiB" if self.ended else f"{self.seconds:.1f} s, {self.mib:,.0f} MiB"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="COMMAND", help="of those above; all of them by default")
    parser.add_argument("--sizes", nargs="+", type=int, default=[1000, 10_000], help="numbers of trees")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--folder", type=Path, help="where stores are written and removed; a temporary folder")
    parser.add_argument("--limit", type=float, default=2.0, help="GiB")
    parser.add_argument("--write", type=Path, help="only write a store of the one size, into this run's folder")
    options = parser.parse_args(arguments)
    if options.write:
        return write_run(options.write, *options.sizes)
    checkouts = {"here": ROOT} | ({"against": options.against.resolve()} if options.against else {})
    costs: dict[str, dict[str, list[Cost]]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for size, (code, path) in itertools.product(options.sizes, checkouts.items()):
            run_dir, out = Path(folder, "run"), Path(folder, "out")
            for name, command in commands(run_dir, size, out).items():
                if name == "write" or not options.names or name in options.names:
                    out.mkdir()
                    cost = measure(command, path, options.limit)
                    print(f"{size:>7} trees, {name:7} {code:7} {cost}", file=sys.stderr, flush=True)
                    costs.setdefault(name, {}).setdefault(code, []).append(cost)
                    shutil.rmtree(out)
            shutil.rmtree(run_dir)
    report(options.sizes, costs)


def commands(run_dir: Path, size: int, out: Path) -> dict[str, list[str]]:
    """Return the arguments of an interpreter for each command. What they write goes to the folder `out`."""
    store, trees = run_dir / "checkpoints" / "trees", ["-m", "leafe_verl", "trees"]
    return {
        "write": [__file__, "--write", str(run_dir), "--sizes", str(size)],
        "open": ["-c", OPEN, str(store)],
        "list": [*trees, "list", str(store)],
        "resume": ["-c", RESUME, str(store), str(last_step(size)), task_key(size - 1)],
        "filter": [*trees, "filter", str(store), "--where", "solved=true", "--out", str(out / "filtered")],
        "export": [*trees, "export", str(store), "--format", "verl", "--out", str(out / "rows.parquet")],
        "report": ["-m", "leafe_verl", "report", str(run_dir), "--out", str(out / "report.html")],
    }


def last_step(size: int) -> int:
    return (size - 1) // TASKS_OF_A_STEP + 1


def task_key(number: int) -> str:
    return f"task-{number % TASKS:05d}"


def write_run(run_dir: Path, size: int) -> None:
    """Write what a training run leaves: metrics of its steps, and a store of `size` trees."""
    store = run_dir / "checkpoints" / "trees"
    make_folder(store)
    dawn = datetime(2026, 1, 1, tzinfo=UTC)
    templates = [template(random.Random(seed)) for seed in range(TEMPLATES)]
    files = [RecordFile(store / f"trees-host-{number}-0.arrow", SCHEMA) for number in range(FILES)]
    for number in range(size):
        step = number // TASKS_OF_A_STEP + 1
        changes = {"task_key": task_key(number), "step": step, "collected_at": dawn + timedelta(seconds=number)}
        record = templates[number * 7919 % TEMPLATES]
        for name, value in changes.items():
            place = SCHEMA.get_field_index(name)
            record = record.set_column(place, SCHEMA.field(place), pa.array([value], SCHEMA.field(place).type))
        files[number % FILES].append(record)
    for file in files:
        file.close()
    with (run_dir / "metrics-1.jsonl").open("w") as metrics:
        for step in range(1, last_step(size) + 1):
            metrics.write(json.dumps({"step": step, "data": {"training/global_step": step, "leafe/trees": 16}}) + "\n")


def template(chance: random.Random) -> pa.RecordBatch:
    """Return a tree as a record batch of one row."""
    row = to_row(grow(chance), Provenance("run", 1, 0, "model", "49152-abcdef", 0, 1, dtype="float32"))
    return pa.RecordBatch.from_pylist([row], schema=SCHEMA)


def grow(chance: random.Random) -> ExplorationTree:
    """Return three roots, which succeed at their first turn or fail twice, and a branch of the first failed one."""
    question = words(chance, PROMPT)
    tree = ExplorationTree(Task("task", question[0], "mbpp", {"test_list": [words(chance, 20)[0]] * 3}))
    messages = ({"role": "system", "content": words(chance, 40)[0]}, {"role": "user", "content": question[0]})
    first = History(question[1], messages)
    for _ in range(3):
        solved = chance.random() < 0.3
        steps = play(chance, first, 1 if solved else 2, solved)
        tree.add(Attempt(None, steps, Outcome.SUCCESS if solved else Outcome.HORIZON))
    failed = next((i for i, each in enumerate(tree.attempts) if each.outcome is not Outcome.SUCCESS), None)
    if failed is not None:
        experience, tokens = words(chance, EXPERIENCE)
        tree.reflections.append((failed, Reflection(1, experience, True, experience, len(tokens), 2)))
        solved = chance.random() < 0.3
        branch = Branch(failed, 1, 1, tree.reflections[0][1])
        steps = play(chance, first, 1 if solved else 2, solved)
        tree.add(Attempt(branch, steps, Outcome.SUCCESS if solved else Outcome.HORIZON))
    return tree


def play(chance: random.Random, history: History, turns: int, solved: bool) -> tuple[StepRecord, ...]:
    """Return consecutive turns, whose histories continue one another token for token."""
    steps: list[StepRecord] = []
    for turn in range(turns):
        success = solved and turn == turns - 1
        text, token_ids = words(chance, ACTION)
        action, (feedback, read) = Turn(text, token_ids), words(chance, FEEDBACK)
        steps.append(StepRecord(history, action, feedback, float(success), not success, None, text, failed=not success))
        spoken = ({"role": "assistant", "content": text}, {"role": "user", "content": feedback})
        messages = (*history.messages, *spoken)
        history = History(history.token_ids + action.token_ids + read, messages, (history, action))
    return tuple(steps)


def words(chance: random.Random, number: int) -> tuple[str, tuple[int, ...]]:
    """Return a text and its tokens, a word each: few words are frequent, as in a language."""
    length = max(1, round(chance.gauss(number, number / 4)))
    token_ids = tuple(int(chance.paretovariate(0.5)) % 49152 for _ in range(length))
    return " ".join(f"w{token:x}" for token in token_ids), token_ids


def measure(command: Sequence[str], checkout: Path, limit: float) -> Cost:
    """Run an interpreter with a checkout's code. Raises RuntimeError if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        child = subprocess.Popen([sys.executable, *command], cwd="/", env=environment, stdout=log, stderr=log)
        process, peak, ended = psutil.Process(child.pid), 0, False
        while (result := os.wait4(child.pid, os.WNOHANG))[0] == 0:
            peak = max(peak, own_memory(process))
            if peak > limit * 1024 * MIB and not ended:
                child.kill()
                ended = True
            time.sleep(POLL_SECONDS)
        child.returncode = os.waitstatus_to_exitcode(result[1])
        if child.returncode and not ended:
            log.seek(0)
            raise RuntimeError(f"{command} with {checkout} failed:\n{log.read().decode(errors='replace')[-4000:]}")
    return Cost(result[2].ru_utime + result[2].ru_stime, peak / MIB, ended)


def own_memory(process: psutil.Process) -> int:
    """Return the bytes of a process's pages that no file holds."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0  # it has just ended


def report(sizes: Sequence[int], costs: dict[str, dict[str, list[Cost]]]) -> None:
    columns = ["command", "code", *(f"{size:,} trees" for size in sizes), "ms a tree", "KiB a tree"]
    rows = [row for name, checkouts in costs.items() for row in table_rows(name, sizes, checkouts)]
    ratios = [line for name, each in costs.items() if "against" in each for line in compared(name, sizes[-1], each)]
    measured = {
        name: {code: [dataclasses.asdict(cost) for cost in found] for code, found in each.items()}
        for name, each in costs.items()
    }
    print_table(columns, rows, {"sizes": list(sizes), "costs": measured, "ratios": ratios})


def table_rows(name: str, sizes: Sequence[int], checkouts: dict[str, list[Cost]]) -> Iterator[list[str]]:
    """Yield a row for each checkout: seconds and MiB by size, and what each tree beyond the smallest store adds."""
    for code, costs in checkouts.items():
        whole = [(size, cost) for size, cost in zip(sizes, costs, strict=True) if not cost.ended]
        growth = ["", ""]
        if len(whole) > 1:
            (few, first), (many, last) = whole[0], whole[-1]
            seconds, mib = last.seconds - first.seconds, last.mib - first.mib
            growth = [f"{1000 * seconds / (many - few):.3f}", f"{1024 * mib / (many - few):.2f}"]
        yield [name, code, *map(str, costs), *growth]


def compared(name: str, size: int, checkouts: dict[str, list[Cost]]) -> Iterator[dict[str, Any]]:
    """Yield lines of run.py's table for the largest store."""
    ours, theirs = checkouts["here"][-1], checkouts["against"][-1]
    for what, key in {"processor time": "seconds", "memory": "mib"}.items():
        if not ours.ended and not theirs.ended:
            values = [getattr(ours, key)], [getattr(theirs, key)]
            yield ratio(f"{what} of {name}, {size:,} trees", "the other checkout", *values)


if __name__ == "__main__":
    main()
