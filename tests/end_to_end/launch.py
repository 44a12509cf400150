"""Running verl's launcher on the tiny model, as the recipes do, small."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

TESTS = Path(__file__).parents[1]
LIMIT_SECONDS = 900
TERMINAL = "terminal.txt"
"""File in the run's folder with what a run printed where there is no terminal; all else is in its log.txt."""

SMALL = [
    "device=cpu",
    "leafe.environment.name=end_to_end.letters:Letters",
    "leafe.generation.chat_family=qwen",
    "leafe.generation.max_tokens=24",
    "leafe.reflection.max_tokens=64",
    "leafe.reflection.max_characters=40",
    "leafe.distillation.incomplete_actions=true",
    "leafe.distillation.rehearsal_share=1.0",
    # A random model hardly ever succeeds at once, nor in a branch that follows a failure.
    "leafe.distillation.rehearsal=attempts",
    "leafe.distillation.counterfactual_histories=every",
    "leafe.distillation.events=improved",
    "data.train_batch_size=6",
    "data.max_prompt_length=768",
    "data.max_response_length=256",
    "actor_rollout_ref.rollout.n=2",
    "actor_rollout_ref.rollout.val_kwargs.n=2",
    "actor_rollout_ref.actor.optim.lr=1e-3",
    "trainer.val_before_train=false",
    "trainer.test_freq=1000",
    "trainer.save_freq=-1",
]


def write_tasks(path: Path, number: int) -> Path:
    rows = [{"task_id": i, "text": f"word{i}"} for i in range(number)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def launch(
    config: str,
    model: Path,
    run_dir: Path,
    *overrides: str,
    meanwhile: Callable[[psutil.Process], None] | None = None,
    module: str = "end_to_end.probe",
) -> dict[int, dict[str, float]]:
    """Run `python -m verl.trainer.main_ppo`; return training step -> metrics. Fails with the end of what it printed.

    `meanwhile` is called with the driver's process while it runs; `module` registers trainers.
    """
    with started(config, model, run_dir, *overrides, module=module) as (process, metrics):
        try:
            if meanwhile:
                meanwhile(psutil.Process(process.pid))
            status = process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            status = -9
    assert status == 0, "\n".join(
        (run_dir / name).read_text(errors="replace")[-6000:] for name in (TERMINAL, "log.txt")
    )
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    return {record["step"]: record["data"] for record in records}


def launch_and_kill(config: str, model: Path, run_dir: Path, *overrides: str, when: Callable[[], bool]) -> None:
    """Run verl until `when` says so, then kill all its processes with SIGKILL."""
    with started(config, model, run_dir, *overrides) as (process, _):
        driver = psutil.Process(process.pid)
        wait_until(when, driver)
        for each in [driver, *driver.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def wait_until(true: Callable[[], bool], driver: psutil.Process) -> None:
    """Fails when the run ends first."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not true():
        assert driver.is_running() and driver.status() != psutil.STATUS_ZOMBIE, "the run ended before its time"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def find_worker(driver: psutil.Process, title: str) -> psutil.Process:
    """Wait for the Ray worker of a run with this title, of which there is one."""
    found: list[psutil.Process] = []

    def is_there() -> bool:
        found[:] = named(driver.children(recursive=True), f"ray::{title}")
        return bool(found)

    wait_until(is_there, driver)
    (worker,) = found
    return worker


def named(processes: list[psutil.Process], text: str) -> list[psutil.Process]:
    """Those whose command line holds a match of the expression `text`."""
    found = []
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            found += [each] if re.search(text, " ".join(each.cmdline())) else []
    return found


@contextmanager
def started(
    config: str, model: Path, run_dir: Path, *overrides: str, module: str = "end_to_end.probe"
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A run and the file of its metrics; whatever is left of it at the end is killed."""
    run_dir.mkdir(parents=True, exist_ok=True)
    metrics = run_dir / f"metrics-{len(list(run_dir.glob('metrics-*')))}.jsonl"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
        "RUN_DIR": str(run_dir),
        "VERL_FILE_LOGGER_PATH": str(metrics),
        "TENSORBOARD_DIR": str(run_dir / "tensorboard"),
        "VERL_USE_EXTERNAL_MODULES": module,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # One vLLM replica a rank: bound to the same two cores they would take turns on one.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }
    tasks = write_tasks(run_dir / "tasks.jsonl", 12)
    held_out = write_tasks(run_dir / "held_out.jsonl", 3)
    command = [
        *[sys.executable, "-m", "verl.trainer.main_ppo"],
        *["--config-path", "pkg://leafe_verl.plugin.config", "--config-name", config],
        *SMALL,
        f"actor_rollout_ref.model.path={model}",
        f"data.train_files={tasks}",
        f"data.val_files={held_out}",
        *overrides,
    ]
    with (run_dir / TERMINAL).open("a") as terminal:
        process = subprocess.Popen(
            command, stdout=terminal, stderr=subprocess.STDOUT, env=environment, cwd=run_dir, start_new_session=True
        )
        try:
            yield process, metrics
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)


def evaluate(model: Path, source: tuple[str, Path], out: Path, attempts: int, *overrides: str) -> str:
    """Run `leafe-verl evaluate` on `--tasks FILE` or `--from STORE` and return what it printed. Fails with its end."""
    command = [sys.executable, "-m", "leafe_verl", "evaluate", "--device", "cpu", "--attempts", str(attempts)]
    command += ["--model", str(model), *map(str, source), "--out", str(out)]
    command += ["leafe.environment.name=end_to_end.letters:Letters", "leafe.generation.max_tokens=24"]
    command += [
        "leafe.reflection.max_tokens=24",
        "data.max_prompt_length=768",
        "data.max_response_length=256",
        *overrides,
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        command, env=environment, cwd=out.parent, capture_output=True, text=True, timeout=LIMIT_SECONDS
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout
