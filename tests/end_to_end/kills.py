"""Kill processes of a tiny run at random moments, run the same command again until it is done, compare the outcome.

python tests/end_to_end/kills.py FOLDER --kills 20 --seed 0 --minutes 6

The same command goes on where it stopped: after `--minutes` it kills the run as a whole, which counts as a kill. Of
every run that is done, the store must hold each tree once, and the optimiser must have made as many steps as in a run
that nobody disturbed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
import torch

from end_to_end.launch import named, started
from end_to_end.tiny_model import make_tiny_model
from leafe_verl.trees import index, read_trees

STEPS, TASKS_OF_A_STEP = 6, 4
EVERYTHING = "everything"
TARGETS = {
    "driver": "verl.trainer.main_ppo",
    "raylet": "raylet/raylet",
    "gcs_server": "gcs_server",
    "task runner": "ray::TaskRunner",
    "rollout worker": "ray::(RolloutWorker|AgentLoopWorkerTQ)",  # the latter while it plays
    "inference server": "ray::vLLMHttpServer",
    "inference engine": "VLLM::EngineCore",
    "trainer worker": "ray::WorkerDict",
    EVERYTHING: "",
}
"""What is killed -> what its command line holds."""
START_SECONDS, TRAINING_SECONDS = 45.0, 20.0
"""A kill comes so late at most: after the launch, and after training has begun."""
LEAVING_SECONDS = 20.0
"""What a run's processes get to end once its driver has."""
SILENCE_SECONDS = 240.0
"""A run that shows no sign of life for so long, hangs."""
RUN = [
    "leafe.environment.concurrency=1",
    "+leafe.environment.options.seconds=0.1",
    f"data.train_batch_size={TASKS_OF_A_STEP}",
    # 1 to 3 examples a task and room for 4 in a mini-batch: whatever is sampled, a step makes as many optimiser steps.
    "leafe.budget.attempts=6",
    "leafe.distillation.events=every",
    "leafe.distillation.rehearsal_share=0.0",
    "leafe.distillation.recovery_targets=0",
    "leafe.distillation.hold_share=0.0",
    "actor_rollout_ref.rollout.n=4",
    f"actor_rollout_ref.actor.ppo_mini_batch_size={TASKS_OF_A_STEP}",
    f"trainer.total_training_steps={STEPS}",
    "trainer.total_epochs=9",
    "trainer.save_freq=1",
    "trainer.max_actor_ckpt_to_keep=2",
    "trainer.test_freq=-1",
]


class Record:
    """What was done and seen so far, on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def add(self, **event: object) -> None:
        self.events.append(json.loads(json.dumps(event)))
        with self._path.open("a") as file:
            file.write(json.dumps(event) + "\n")
        print(json.dumps(event), flush=True)

    def of(self, what: str) -> list[dict]:
        return [event for event in self.events if event["what"] == what]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the runs and of the record; new, or one to go on with")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    model, record = folder / "model", Record(folder / "kills.jsonl")
    if not model.is_dir():
        make_tiny_model(model)
    deadline = time.monotonic() + 60 * options.minutes
    if not record.of("undisturbed"):
        shutil.rmtree(folder / "undisturbed", ignore_errors=True)
        status = go_on(model, folder / "undisturbed", record, lambda: float("inf"), deadline, None)
        if status is None:
            return 0
        if status:
            print((folder / "undisturbed" / "log.txt").read_text(errors="replace")[-3000:])
            return 1
        record.add(what="undisturbed", status=status, **outcome(folder / "undisturbed"))
    while time.monotonic() < deadline and not is_over(record, options.kills):
        disturb(model, folder, record, options.seed, options.kills, deadline)
    return report(record, options.kills)


def is_over(record: Record, kills: int) -> bool:
    """All kills are done, and so is the run that the last of them hit."""
    ends = [i for i, event in enumerate(record.events) if event["what"] == "run"]
    last = [i for i, event in enumerate(record.events) if event["what"] == "kill"]
    return len(last) >= kills and bool(ends) and ends[-1] > last[-1]


def disturb(model: Path, folder: Path, record: Record, seed: int, kills: int, deadline: float) -> None:
    """Launch the present run once, and kill at random moments until it ends, well or not."""
    number = len(record.of("run"))
    draw = random.Random(f"{seed} {len(record.of('launch'))}")
    record.add(what="launch", run=number)

    def wait() -> float:
        return draw.uniform(0, TRAINING_SECONDS) if len(record.of("kill")) < kills else float("inf")

    status = go_on(model, folder / f"run{number}", record, wait, deadline, draw)
    if status == 0:
        record.add(what="run", number=number, **outcome(folder / f"run{number}"))
    elif status is not None and status > 0:
        record.add(what="ended", status=status)


def go_on(
    model: Path, run_dir: Path, record: Record, wait: Callable[[], float], deadline: float, draw: random.Random | None
) -> int | None:
    """Run the command, kill as drawn; return its exit status, None when time was up or nothing more came of it."""
    with started("leafe", model, run_dir, *RUN) as (process, _):
        driver, family = psutil.Process(process.pid), set()
        store = run_dir / "checkpoints" / "trees"
        begun, early = trees(store), draw is not None and draw.random() < 0.25
        next_kill = time.monotonic() + draw.uniform(0, START_SECONDS) if early and wait() < float("inf") else None
        sign, heard = None, time.monotonic()
        while (status := process.poll()) is None:
            family |= set(descendants(driver))
            if next_kill is None and not early and trees(store) > begun:
                next_kill = time.monotonic() + wait()
            if draw and next_kill is not None and time.monotonic() >= next_kill:
                kill(draw, driver, record)
                early, next_kill, begun = False, None, trees(store)
            log = run_dir / "log.txt"
            if log.exists() and (now := log.stat().st_size) != sign:
                sign, heard = now, time.monotonic()
            if time.monotonic() - heard > SILENCE_SECONDS:
                record.add(what="hang", run_dir=run_dir.name)
                break
            if time.monotonic() > deadline:
                if draw:
                    record.add(what="kill", target=EVERYTHING, trees=trees(store), because="time was up")
                break
            time.sleep(0.5)
        else:
            if left := outlived(family, LEAVING_SECONDS):
                record.add(what="left", processes=sorted(map(name_of, left)))
        for each in [driver, *family]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        outlived(family, LEAVING_SECONDS)
    return status


def outlived(processes: set[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that still run after so many seconds."""
    deadline = time.monotonic() + seconds
    while (left := [each for each in processes if is_running(each)]) and time.monotonic() < deadline:
        time.sleep(0.5)
    return left


def is_running(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def kill(draw: random.Random, driver: psutil.Process, record: Record) -> None:
    """Kill what is drawn, or everything where there is none of it."""
    target = draw.choice([*TARGETS])
    family = [driver, *descendants(driver)]
    chosen = named(family, TARGETS[target]) if target != EVERYTHING else []
    record.add(what="kill", target=target if chosen else EVERYTHING)
    for each in [draw.choice(chosen)] if chosen else family:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def descendants(driver: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return driver.children(recursive=True)
    return []


def name_of(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())[:60]
    return "gone"


def trees(store: Path) -> int:
    return len(index(store))


def outcome(run_dir: Path) -> dict[str, object]:
    """The trees of a run that is done, and the steps that its optimiser has made."""
    checkpoints = run_dir / "checkpoints"
    keys = Counter((tree.task.key, provenance.step) for tree, provenance in read_trees(checkpoints / "trees"))
    saved = checkpoints / f"global_step_{STEPS}" / "actor" / "optim_world_size_1_rank_0.pt"
    state = torch.load(saved, weights_only=False)["state"]
    metrics = [json.loads(line) for path in sorted(run_dir.glob("metrics-*")) for line in path.read_text().splitlines()]
    return {
        "trees": sorted(keys),
        "twice": sorted(key for key, times in keys.items() if times > 1),
        "optimizer_steps": int(next(iter(state.values()))["step"]),
        "logged_steps": sorted(Counter(each["step"] for each in metrics).items()),
    }


def report(record: Record, kills: int) -> int:
    (undisturbed,) = record.of("undisturbed")
    expected = {name: undisturbed[name] for name in ("trees", "twice", "optimizer_steps")}
    runs = record.of("run")
    wrong = [run["number"] for run in runs if any(run[name] != value for name, value in expected.items())]
    print(f"{len(record.of('kill'))} of {kills} kills: {dict(Counter(each['target'] for each in record.of('kill')))}")
    print(f"{len(record.of('launch'))} launches, {len(runs)} runs done, {len(record.of('hang'))} hangs")
    print(
        f"expected {len(expected['trees'])} trees, {expected['optimizer_steps']} optimiser steps; other: runs {wrong}"
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
