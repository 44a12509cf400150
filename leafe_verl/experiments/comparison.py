"""Trains and evaluates every method of a plan, chooses learning rates, and compares."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from leafe_verl.evaluation.cells import Figures, read_figures
from leafe_verl.evaluation.comparison import training_cost
from leafe_verl.experiments.budget import describe_misses
from leafe_verl.experiments.ledger import Ledger, Shell, keep_plan
from leafe_verl.experiments.plan import AFTER_GRPO, FEW, UNTRAINED, Plan
from leafe_verl.experiments.splits import draw_splits
from leafe_verl.experiments.training import Trained, Trainings, after_grpo
from leafe_verl.run_lock import hold


@dataclass(frozen=True)
class Evaluated:
    """A method whose cells are finished."""

    trained: Trained
    cell: str
    """What the names of its evaluations begin with."""


@dataclass(frozen=True)
class Comparison:
    """One comparison, which goes on where it stopped."""

    plan: Plan
    ledger: Ledger
    trainings: Trainings

    def run(self) -> None:
        """Run every cell, say which methods missed the budget, and write the comparison."""
        first, *others = self.plan.seeds
        evaluated = {method: self._train_and_evaluate(method, method, first) for method in self.plan.methods}
        misses = self._misses(first, evaluated)
        for seed in others:
            more = {
                f"{m}_seed{seed}": self._train_and_evaluate(f"{m}_seed{seed}", m, seed) for m in self.plan.methods[1:]
            }
            misses += self._misses(seed, more)
            evaluated |= more
        print("\n".join(f"note: {miss}" for miss in misses))
        self._compare(evaluated)

    def _train_and_evaluate(self, name: str, method: str, seed: int) -> Evaluated:
        """Train a method and evaluate it on the held-out tasks, and from the failures of the base model.

        The rate is part of the cells' names: another set of rates may choose another one.
        """
        rate = self.rate(method)
        trained, cell = self._train(method, seed, rate), f"{name}/rate-{rate}" if rate else name
        cell += self._after(method)
        self._evaluate(f"{cell}/held_out", trained, "held_out", "few" if method in FEW else "all")
        if self.plan.attempts["given"]:
            self._evaluate(f"{cell}/given", trained, "held_out", "given", source=self._folder("base/held_out"))
        return Evaluated(trained, cell)

    def _train(self, method: str, seed: int, rate: str | None) -> Trained:
        return self.trainings.train(method, seed, rate, self.rate("grpo") if method in AFTER_GRPO else None)

    def _after(self, method: str) -> str:
        """Return what a cell's name says of the GRPO checkpoint that its method began with."""
        after = after_grpo(self.rate("grpo")) if method in AFTER_GRPO else ""
        return f"/{after}" if after else ""

    def rate(self, method: str) -> str | None:
        """Return a method's learning rate: the one whose policy solves most on the development tasks.

        Every method has the same rates to choose from, each trained with the first seed.
        """
        rates, seed = self.plan.rates, self.plan.seeds[0]
        if method in UNTRAINED or not rates:
            return None
        if len(rates) == 1:
            return rates[0]
        solved = {}
        for rate in rates:
            trained = self._train(method, seed, rate)
            cell = f"rates/{method}/{rate}{self._after(method)}"
            solved[rate] = self._evaluate(cell, trained, "dev", "dev")["pass@1"]
        return max(rates, key=lambda rate: (solved[rate], -float(rate)))

    def _folder(self, cell: str) -> Path:
        return self.plan.run_dir / "evaluations" / cell

    def _evaluate(self, cell: str, trained: Trained, tasks: str, attempts: str, source: Path | None = None) -> Figures:
        return self.ledger.finish(f"evaluations/{cell}", partial(self._play, cell, trained, tasks, attempts, source))

    def _play(
        self, cell: str, trained: Trained, tasks: str, attempts: str, source: Path | None, shell: Shell
    ) -> Figures:
        command = [sys.executable, "-m", "leafe_verl", "evaluate", "--tasks", str(self.trainings.files[tasks])]
        command += ["--attempts", str(self.plan.attempts[attempts]), "--out", str(self._folder(cell))]
        command += ["--model", trained.model] if trained.model else []
        command += ["--from", str(source)] if source else []
        command += [f"leafe.playbook.path='{trained.playbook}'"] if trained.playbook else []
        shell.run([*command, *self.plan.overrides])
        return read_figures(self._folder(cell))

    def _misses(self, seed: int, evaluated: Mapping[str, Evaluated]) -> list[str]:
        """Say which methods spent more or less than the budget of a seed."""
        sources = {name: each.trained.sources for name, each in evaluated.items() if each.trained.sources}
        costs = {name: training_cost(of_one) for name, of_one in sources.items()}
        budget = self.trainings.budget(seed) if costs else 1.0
        return describe_misses({name: cost["environment steps"] / budget for name, cost in costs.items()})

    def _compare(self, evaluated: Mapping[str, Evaluated]) -> None:
        """Write the tables and the picture of all evaluations to RUN_DIR/comparison."""
        compared = [f"{name}={self._folder(f'{each.cell}/held_out')}" for name, each in evaluated.items()]
        if self.plan.attempts["given"]:
            compared += [f"{name}_given={self._folder(f'{each.cell}/given')}" for name, each in evaluated.items()]
        training = [f"{name}={source}" for name, each in evaluated.items() for source in each.trained.sources]
        command = [sys.executable, "-m", "leafe_verl", "compare", *compared]
        command += ["--out", str(self.plan.run_dir / "comparison"), "--baseline", self.plan.baseline]
        Shell({}).run([*command, *(["--training", *training] if training else [])])


def main(overrides: Sequence[str]) -> None:
    """Run the comparison that the environment variables describe; see `recipes/compare_mbpp.sh`."""
    try:
        plan = Plan.read(os.environ, overrides)
        plan.run_dir.mkdir(parents=True, exist_ok=True)
        if not hold(plan.run_dir):
            raise ValueError(f"another comparison is at work in {plan.run_dir}; wait for it, or choose another RUN_DIR")
        keep_plan(plan.run_dir, plan.decisive)
        files = draw_splits(plan.source, plan.sizes, plan.split_seed, plan.run_dir / "tasks")
        late = plan.run_dir / "tasks" / "late.jsonl"
        rows = files["train"].read_text(encoding="utf-8").splitlines(keepends=True)
        late.write_text("".join(rows[len(rows) // 2 :]), encoding="utf-8")
        ledger = Ledger(plan.run_dir)
        Comparison(plan, ledger, Trainings(plan, ledger, {**files, "late": late})).run()
    except ValueError as error:
        raise SystemExit(str(error)) from error
