"""Trains the methods of a comparison: the commands of each, and what each spent."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from leafe_verl.checkpoints import STEP, hf_folder, read_precision
from leafe_verl.environments import make
from leafe_verl.evaluation.cells import Figures
from leafe_verl.evaluation.comparison import training_cost
from leafe_verl.experiments.budget import require_no_more, spent, train_to_budget, trained_steps
from leafe_verl.experiments.ledger import Ledger, Shell
from leafe_verl.experiments.plan import DISTILLED, Plan

ROOTS = 8
"""Attempts at a task in one step of GRPO, Early Experience and ACE, as their configurations have it."""
SEEDS = ("data.seed", "leafe.seed", "actor_rollout_ref.rollout.seed", "actor_rollout_ref.actor.data_loader_seed")
"""Settings that a training's seed sets."""


@dataclass(frozen=True)
class Trained:
    """What a method's training gave."""

    model: str | None
    """Checkpoint or folder; None: the configuration's own model."""
    sources: tuple[str, ...] = ()
    """What it spent, as `leafe-verl compare --training` takes it: RUN_DIRs, or RUN_DIR@N for their first N steps."""
    playbook: Path | None = None
    """ACE's advice."""


@dataclass(frozen=True)
class Run:
    """One call of verl's launcher."""

    folder: Path
    """Its RUN_DIR."""
    config: str
    """Name of one of our configurations."""
    seed: int
    model: str | None
    """None: the configuration's own."""
    tasks: str
    """Name of the task file that is trained on."""
    steps: int
    """Number of training steps, those of earlier calls included."""
    batch: int
    """Tasks of a training step."""
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Trainings:
    """The trainings of one comparison. Each is a cell, and is done once."""

    plan: Plan
    ledger: Ledger
    files: Mapping[str, Path]
    """Task files by the names of `Plan.sizes`."""

    def train(self, method: str, seed: int, rate: str | None, grpo_rate: str | None) -> Trained:
        """Train a method, or find it trained.

        Args:
            rate: Learning rate; None: the configuration's default.
            grpo_rate: Learning rate of the GRPO checkpoint that a method may begin with.
        """
        if method == "base":
            return Trained(self.plan.model)
        if method in DISTILLED:
            return self._distil(method, seed, rate, DISTILLED[method], self.explore(seed), self.plan.model)
        if method == "early_experience":
            return self._train_to_budget(method, seed, rate)
        half = self._train_to_budget("grpo", seed, rate if method == "grpo" else grpo_rate, half=True)
        if method == "leafe_rl":
            return self._leafe_after_grpo(seed, rate, half, after_grpo(grpo_rate))
        if method == "ace":
            return self._ace_after_grpo(seed, half, after_grpo(grpo_rate))
        # GRPO goes on from its own half.
        return self._train_to_budget(method, seed, rate)

    def explore(self, seed: int) -> Path:
        """Run stage 1 once, for all methods that distil what the same policy explored. Return its RUN_DIR."""
        return self._explore(self.plan.run_dir / f"seed{seed}" / "explore", seed, self.plan.model, "train")

    def budget(self, seed: int) -> float:
        """Return the environment steps that every method may spend: those of stage 1."""
        return float(self.ledger.cells[self._name(self.explore(seed))]["environment_steps"])

    def folder(self, method: str, seed: int, rate: str | None) -> Path:
        """Return the RUN_DIR of a training."""
        return self.plan.run_dir / f"seed{seed}" / method / (f"rate-{rate}" if rate else "default")

    def _name(self, folder: Path) -> str:
        return folder.relative_to(self.plan.run_dir).as_posix()

    def _explore(self, folder: Path, seed: int, model: str | None, tasks: str) -> Path:
        budget = self.plan.budget
        overrides = (
            "preset=recommended",
            "leafe.schedule.stages=explore",
            f"leafe.budget.environment_steps={budget}",
            f"leafe.budget.attempts={budget}",
        )
        self._finish(self._leafe(folder, seed, model, tasks, overrides))
        return folder

    def _distil(
        self,
        method: str,
        seed: int,
        rate: str | None,
        overrides: tuple[str, ...],
        explored: Path,
        model: str | None,
        after: str = "",
    ) -> Trained:
        """Run stage 2 alone on the trees of a stage 1. Its steps are as many as those of the exploration."""
        folder, tasks = self.folder(method, seed, rate) / after, "late" if method == "leafe_rl" else "train"
        store = f"leafe.collection.store='{explored / 'checkpoints' / 'trees'}'"
        given = (*overrides, "leafe.schedule.stages=distil", store, *self._rate(rate))
        self._finish(self._leafe(folder, seed, model, tasks, given))
        return Trained(checkpoint(folder), (str(folder),))

    def _train_to_budget(self, method: str, seed: int, rate: str | None, *, half: bool = False) -> Trained:
        """Train GRPO, or Early Experience, until half of the budget or all of it is spent.

        GRPO's weights at half of it are kept, since other methods go on from them.
        """
        folder, budget = self.folder(method, seed, rate), self.budget(seed) / (2 if half else 1)
        name = self._name(folder) + ("/half" if half else "")

        def work(shell: Shell) -> Figures:
            step = train_to_budget(folder, budget, self._most_of_a_step(), partial(launch, shell))
            if half:
                require_no_more(folder, budget)
                copy_folder(Path(hf_folder(checkpoint(folder))), folder / "half")
            return {**self._figures(folder, seed, step), "step": step}

        def launch(shell: Shell, steps: int) -> None:
            run = Run(folder, method, seed, self.plan.model, "train", steps, self.plan.small_batch, self._rate(rate))
            self._launch(shell, run)

        figures = self.ledger.finish(name, work)
        model = str(folder / "half") if half else checkpoint(folder)
        return Trained(model, (f"{folder}@{figures['step']}",))

    def _leafe_after_grpo(self, seed: int, rate: str | None, half: Trained, after: str) -> Trained:
        """Spend the second half of the budget on LEAFE, on the second half of the tasks. GRPO draws from all."""
        explored = self._explore(self.plan.run_dir / f"seed{seed}" / "explore_rl" / after, seed, half.model, "late")
        distilled = self._distil("leafe_rl", seed, rate, DISTILLED["leafe"], explored, half.model, after)
        return Trained(distilled.model, (*half.sources, *distilled.sources))

    def _ace_after_grpo(self, seed: int, half: Trained, after: str) -> Trained:
        """Spend the second half of the budget on ACE. Nothing is trained then."""
        folder = self.folder("ace", seed, None).with_name(after or "default")
        grpo = training_cost(half.sources)["environment steps"]
        of_a_step = grpo / int(half.sources[0].rpartition("@")[2])  # attempts of ACE take about as many
        steps = max(1, round((self.budget(seed) - grpo) / of_a_step))
        if self._name(folder) not in self.ledger.cells:
            # ACE saves no checkpoint: going on would learn from the first tasks again, so that it begins anew.
            shutil.rmtree(folder, ignore_errors=True)
        self._finish(Run(folder, "ace", seed, half.model, "train", steps, self.plan.small_batch, ()))
        return Trained(half.model, (*half.sources, str(folder)), folder / "checkpoints" / "playbook.json")

    def _leafe(self, folder: Path, seed: int, model: str | None, tasks: str, overrides: tuple[str, ...]) -> Run:
        """Return a run that takes every task of a file once."""
        steps = self.plan.sizes["train"] // (2 if tasks == "late" else 1) // self.plan.batch
        return Run(folder, "leafe", seed, model, tasks, steps, self.plan.batch, overrides)

    def _finish(self, run: Run) -> None:
        def work(shell: Shell) -> Figures:
            self._launch(shell, run)
            return self._figures(run.folder, run.seed)

        self.ledger.finish(self._name(run.folder), work)

    def _launch(self, shell: Shell, run: Run) -> None:
        """Run verl's launcher, as a recipe does. The same call goes on with what a killed one has done."""
        command = [sys.executable, "-m", "verl.trainer.main_ppo", "--config-path", "pkg://leafe_verl.plugin.config"]
        command += ["--config-name", run.config, "environment=mbpp"]
        command += ["trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.total_epochs=1000"]
        command += [f"trainer.total_training_steps={run.steps}", f"data.train_batch_size={run.batch}"]
        command += [f"{key}={run.seed}" for key in SEEDS]
        variables = {"RUN_DIR": str(run.folder), "VAL_FILES": str(self.files["dev"])}
        variables |= {"TRAIN_FILES": str(self.files[run.tasks]), **({"MODEL": run.model} if run.model else {})}
        shell.run([*command, *self.plan.overrides, *run.overrides], **variables)

    def _figures(self, folder: Path, seed: int, last: int | None = None) -> Figures:
        return {"seed": seed, "dtype": read_precision(folder), **spent(folder, last)}

    def _rate(self, rate: str | None) -> tuple[str, ...]:
        return (f"actor_rollout_ref.actor.optim.lr={rate}",) if rate else ()

    def _most_of_a_step(self) -> float:
        given = dict(each.lstrip("+").split("=", 1) for each in self.plan.overrides if "=" in each)
        horizon = given.get("leafe.environment.horizon", "null")
        turns = int(horizon) if horizon.isdecimal() else make("mbpp").horizon
        return float(self.plan.small_batch * ROOTS * turns)


def after_grpo(rate: str | None) -> str:
    """Return what names the GRPO checkpoint that a method went on from, by GRPO's learning rate; "" for the default."""
    return f"after-{rate}" if rate else ""


def checkpoint(folder: Path) -> str:
    """Return the last checkpoint of a training."""
    return str(folder / "checkpoints" / f"{STEP}{trained_steps(folder)}")


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder, so that a killed copy is not taken for a whole one. A copy that is there already stays."""
    if target.exists():
        return
    partial_copy = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial_copy, ignore_errors=True)
    shutil.copytree(source, partial_copy)
    partial_copy.rename(target)
