"""What the recipes launch on a machine with GPUs, found out by running them with a stand-in for Python."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from experiments.test_comparison import FakeLauncher
from leafe_verl import cli
from leafe_verl.embedded import DATA, HELDOUT_FILE, TRAIN_FILE
from leafe_verl.experiments import comparison, ledger, training
from leafe_verl.plugin import evaluate, resolvers
from plugin.chat_templates import write_model
from qwen import SIZES, hub_name, qwen_config

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
GPUS = 8
"""GPUs of a node."""
PYTHON = """#!{interpreter} -S
import json, os, sys
if "leafe_verl.plugin.resolvers" in sys.argv:
    print("gpu")
elif "-m" in sys.argv:
    with open({calls!r}, "a") as file:
        file.write(json.dumps([sys.argv[1:], dict(os.environ)]) + "\\n")
"""
"""Answers the recipes' questions as on a machine with GPUs, and writes down everything else."""
HUB_FILES = {
    "mbpp": ([TRAIN_FILE], [HELDOUT_FILE]),
    # One batch takes 64 problems, and the embedded ones are 30.
    "codecontests": ([DATA / "embedded_codecontests_train.jsonl"] * 3, [DATA / "embedded_codecontests_heldout.jsonl"]),
}
"""Environment whose tasks come from the hub -> local files in their place."""


@dataclass(frozen=True)
class Launch:
    """One call of verl's launcher."""

    config: str
    """Name of one of our configurations."""
    overrides: tuple[str, ...]

    def compose(self) -> DictConfig:
        """Return the resolved configuration for GPUs."""
        resolvers.run_dir.cache_clear()
        given = ["device=gpu", f"trainer.n_gpus_per_node={GPUS}", *self.overrides]
        with initialize_config_module(evaluate.CONFIG_MODULE, version_base=None):
            composed = compose(self.config, overrides=given)
        OmegaConf.resolve(composed)
        return composed


def with_stand_ins(launched: Launch, folder: Path) -> DictConfig:
    """Return a launch's configuration with local files in the place of what would come from the hub.

    The model is a folder with the config.json of the one that the recipe names, and with a tokenizer of its family.
    """
    composed = launched.compose()
    model, data = composed.actor_rollout_ref.model, composed.data
    files = HUB_FILES.get(composed.leafe.environment.name)
    if files and all(str(source).startswith("hub:") for source in (*data.train_files, *data.val_files)):
        train, held_out = files
        data.train_files = [_renumbered(path, folder / f"train{n}.jsonl", n) for n, path in enumerate(train)]
        data.val_files = [str(path) for path in held_out]
    if composed.trainer.val_only:
        data.train_files = data.val_files
    model.path = str(_stand_in(str(model.path), folder))
    return composed


def _renumbered(source: Path, target: Path, number: int) -> str:
    """Copy a task file under keys that no other number gives, and return the copy's path."""
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    numbered = ({**row, "task_id": f"{number}-{place}"} for place, row in enumerate(rows))
    target.write_text("".join(json.dumps(row) + "\n" for row in numbered), encoding="utf-8")
    return str(target)


def _stand_in(model: str, folder: Path) -> Path:
    (size,) = [size for size in SIZES if hub_name(size) == model]
    if not (written := folder / size).is_dir():
        write_model(written, "qwen2.5")
        (written / "config.json").write_text(json.dumps(qwen_config(size)))
    return written


def find_launches(recipe: Path, folder: Path) -> list[Launch]:
    """Return what a recipe launches. `folder` is a new one for what the recipe writes."""
    launches: list[Launch] = []
    for arguments, variables in _calls(recipe, folder):
        if "verl.trainer.main_ppo" in arguments:
            launches.append(_of_verl(arguments))
        elif arguments[1:3] == ["leafe_verl", "evaluate"]:
            launches.append(_of_evaluate(arguments[2:]))
        elif arguments[1] == "leafe_verl.experiments":
            launches += _of_comparison(arguments[2:], variables)
    return launches


def _calls(recipe: Path, folder: Path) -> list[tuple[list[str], dict[str, str]]]:
    """Return the arguments and the environment of each call of Python that a recipe makes."""
    calls, stub = folder / "calls", folder / "bin" / "python"
    stub.parent.mkdir(parents=True)
    stub.write_text(PYTHON.format(interpreter=sys.executable, calls=str(calls)))
    stub.chmod(0o755)
    own = {"PATH": f"{stub.parent}:{os.environ['PATH']}", "RUN_DIR": str(folder / "run")}
    own["MBPP"] = str(_write_tasks(folder / "mbpp.jsonl", number=512))
    done = subprocess.run(["bash", recipe], env={**os.environ, **own}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in calls.read_text().splitlines()]  # type: ignore[misc]


def _write_tasks(path: Path, number: int) -> Path:
    """Write as many different tasks in MBPP's form as a comparison draws from."""
    rows = itertools.cycle(json.loads(line) for line in TRAIN_FILE.read_text().splitlines())
    named = ({**row, "task_id": i, "text": f"{row['text']} ({i})"} for i, row in zip(range(number), rows, strict=False))
    path.write_text("".join(json.dumps(row) + "\n" for row in named))
    return path


def _of_verl(arguments: Sequence[str]) -> Launch:
    place = arguments.index("--config-name")
    return Launch(arguments[place + 1], tuple(arguments[place + 2 :]))


def _of_evaluate(arguments: Sequence[str]) -> Launch:
    asked: list[evaluate.EvaluationRequest] = []
    with mock.patch.object(evaluate, "evaluate", asked.append):
        cli.main(arguments)
    (request,) = asked
    return Launch("evaluate", tuple(evaluate._overrides(request, GPUS)))


def _of_comparison(overrides: Sequence[str], variables: Mapping[str, str]) -> list[Launch]:
    """Return the trainings of a comparison, which is played with a launcher that only pretends."""
    fake = FakeLauncher()
    with (
        mock.patch.object(ledger.subprocess, "run", fake),
        mock.patch.object(training, "hf_folder", str),
        mock.patch.dict(os.environ, variables),
    ):
        comparison.main(overrides)
    return [_of_verl(command) for command, _ in fake.calls if "verl.trainer.main_ppo" in command]
