"""The end of a run: what it came to, whether that is more than chance, its report, and what to do next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leafe_verl.checkpoints import saved_steps
from leafe_verl.core.text import counted
from leafe_verl.evaluation.summary import read_metrics, render_summary
from leafe_verl.evaluation.validations import describe_change, read_validations
from leafe_verl.recipes import find_recipes
from leafe_verl.report.document import write_report
from leafe_verl.report.runs import find_runs
from leafe_verl.shell import quoted, shown

REPORT = "report.html"
CHECKOUT = Path(__file__).parents[2]
VARIABLES = (
    *("MODEL", "TRAIN_FILES", "VAL_FILES", "LEAFE_CPU_DTYPE", "RAY_ADDRESS"),
    *("SETUP_DEVICE", "VLLM_CPU_KVCACHE_SPACE", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"),
)
"""Environment variables that decide what a run trains and how, and the memory it takes. A command that goes on with it
must set them again."""
SUBMIT = "LEAFE_SUBMIT"
"""Environment variable in which the scripts of recipes/cluster say how the run was submitted, up to its recipe."""
OF_THE_JOB = ("RAY_ADDRESS", "trainer.nnodes", "trainer.n_gpus_per_node")
"""What these scripts set themselves. The cluster of a job ends with it."""
OPENERS = ("xdg-open", "open")
"""Commands that show a file in the desktop's browser; a server has neither."""
PLAYED = (
    *("leafe.environment.", "leafe.generation.", "leafe.context.", "leafe.playbook.path"),
    *("data.val_files", "data.max_", "data.apply_chat_template_kwargs"),
    *("actor_rollout_ref.model.custom_chat_template", "actor_rollout_ref.model.tokenizer_path"),
    *("actor_rollout_ref.rollout.max_model_len", "actor_rollout_ref.rollout.val_kwargs."),
)
"""How overrides begin that decide what an attempt is."""
ATTEMPTS = "actor_rollout_ref.rollout.val_kwargs.n="
"""The one of them that an evaluation has an argument for."""


@dataclass(frozen=True)
class RunChoices:
    """What a command that goes on with a run needs to know of it."""

    config: str
    """Name of the configuration, such as `leafe`."""
    environment: str
    """Name of the environment's configuration."""
    overrides: tuple[str, ...] = ()
    """All overrides of the command."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """The environment variables of `VARIABLES` that were set."""
    submit: str | None = None
    """How a script of recipes/cluster was called; None if none was."""
    steps: int | None = None
    """trainer.total_training_steps."""
    epochs: int = 1
    """trainer.total_epochs."""
    collect: str = "batch"
    """leafe.schedule.collect."""
    val_max_samples: int = -1
    """Number of tasks that are validated; negative for all."""
    stop_at: str | None = None
    """leafe.generation.stop_at: what ends an action."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> RunChoices:
        """Read them from the configuration of a run, with Hydra's own in it."""
        hydra, trainer, leafe = config["hydra"], config["trainer"], config["leafe"]
        submit = os.environ.get(SUBMIT)
        set_again = [name for name in VARIABLES if not submit or name not in OF_THE_JOB]
        return cls(
            config=hydra["job"]["config_name"],
            environment=hydra["runtime"]["choices"]["environment"],
            overrides=tuple(hydra["overrides"]["task"]),
            variables={name: os.environ[name] for name in set_again if os.environ.get(name)},
            submit=submit,
            steps=trainer["total_training_steps"],
            epochs=trainer["total_epochs"],
            collect=leafe["schedule"]["collect"],
            val_max_samples=config["data"]["val_max_samples"],
            stop_at=leafe["generation"]["stop_at"],
        )


def ending(run_dir: Path) -> Iterator[str]:
    """Yield the lines that say what a run came to, and write its report."""
    try:
        yield from ["", *render_summary(read_metrics(run_dir)).splitlines()]
    except ValueError as error:
        yield from ["", str(error)]
    if change := describe_change(read_validations(run_dir)):
        yield from ["", change]
    yield from ["", *_report(run_dir)]


def _report(run_dir: Path) -> Iterator[str]:
    out = run_dir / REPORT
    try:
        trees = write_report(find_runs([run_dir]), out)
    except Exception as error:  # the run itself went well
        yield f"no report was written: {error}"
    else:
        yield f"report: {shown(out)}" + (f" ({counted(trees, 'tree')})" if trees else "")


def next_commands(run_dir: Path, choices: RunChoices) -> Iterator[str]:
    """Yield an empty line, a heading, and up to three things to do next, as commands."""
    verb = _verb()
    best = run_dir / "checkpoints" / "best"
    saved = sorted(saved_steps(run_dir / "checkpoints").values(), key=lambda path: path.stat().st_mtime)
    model = best if best.exists() else saved[-1] if saved else None
    opener = next(filter(shutil.which, OPENERS), None)
    commands = [(f"{verb} watch {quoted(run_dir)}", "the figures again")]
    if opener and (run_dir / REPORT).is_file():
        commands = [(f"{opener} {quoted(run_dir / REPORT)}", "every task's tree, in a browser")]
    if model:
        options = ["--model", quoted(model), "--attempts 32", "--out", quoted(run_dir / "evaluation")]
        if choices.val_max_samples > 0:
            options.append(f"--max-tasks {choices.val_max_samples}")
        command = " ".join([f"{verb} evaluate", *options, *map(shlex.quote, _played(choices))])
        commands.append((_with_variables(command, choices, but="MODEL"), "more attempts"))
    # ACE saves nothing to go on from, and collecting all tasks is one step, whatever else is asked for.
    if saved and choices.collect != "all":
        changes, what = _twice_as_long(run_dir, choices)
        commands.append((again(run_dir, choices, *changes), f"train on, up to {what}"))
    yield from ["", "next:"]
    yield from (f"  {command}   # {what}" for command, what in commands)


def _played(choices: RunChoices) -> Iterator[str]:
    """Yield the overrides of a run that decide what an attempt is. An evaluation without any plays mbpp."""
    if choices.environment != "mbpp":
        yield f"environment={choices.environment}"
    if choices.stop_at is None:
        yield "leafe.generation.stop_at=null"
    played = (text for text in choices.overrides if text.lstrip("+").startswith(PLAYED))
    yield from (text for text in played if text != "leafe.generation.stop_at=null" and not text.startswith(ATTEMPTS))


def _twice_as_long(run_dir: Path, choices: RunChoices) -> tuple[list[str], str]:
    """Return the overrides that let a run that has ended go on for as long again, and up to what that is.

    verl's loop ends at the first of trainer.total_training_steps and trainer.total_epochs.
    """
    last, epoch = _last_step(run_dir)
    epochs = 2 * choices.epochs
    if choices.steps is None or last < choices.steps:
        return [f"trainer.total_epochs={epochs}"], f"epoch {epochs}"
    too_few = epoch is not None and choices.epochs < 2 * (epoch + 1)
    changes = [f"trainer.total_training_steps={2 * last}", *([f"trainer.total_epochs={epochs}"] if too_few else [])]
    return changes, f"step {2 * last}"


def _last_step(run_dir: Path) -> tuple[int, int | None]:
    """Return the last step and its epoch, from 0. Without the `file` logger there are no metrics, and no epoch."""
    try:
        metrics = read_metrics(run_dir)
    except ValueError:
        return max(saved_steps(run_dir / "checkpoints"), default=1), None
    last = max(metrics)
    epoch = metrics[last].get("training/epoch")
    return max(1, last), None if epoch is None else int(epoch)


def again(run_dir: Path, choices: RunChoices, *changes: str) -> str:
    """Return the command that goes on with a run: its recipe if there is one, else verl's launcher.

    `changes` are overrides that take the place of those with the same key.
    """
    changed = {text.partition("=")[0] for text in changes}
    given = [text for text in choices.overrides if text.partition("=")[0] not in changed] + [*changes]
    overrides = [text for text in given if not text.startswith("environment=")]
    if submit := choices.submit:
        own = (text for text in overrides if text.partition("=")[0] not in OF_THE_JOB)
        return _with_variables(f"RUN_DIR={quoted(run_dir)} {submit} {shlex.join(own)}".rstrip(), choices)
    if recipe := _find_recipe(f"{choices.config}_{choices.environment}.sh"):
        command = ["bash", shown(recipe), *overrides]
    else:
        launcher = ["python", "-m", "verl.trainer.main_ppo", "--config-path", "pkg://leafe_verl.plugin.config"]
        command = [*launcher, "--config-name", choices.config, *given]
    return _with_variables(f"RUN_DIR={quoted(run_dir)} {shlex.join(command)}", choices)


def _find_recipe(name: str) -> Path | None:
    """Return a recipe of this installation; None if it has none of that name."""
    try:
        recipe = find_recipes() / name
    except ValueError:
        return None
    return recipe if recipe.is_file() else None


def _with_variables(command: str, choices: RunChoices, but: str = "") -> str:
    """Return a command that sets the environment variables of the run, all but one."""
    told = [f"{name}={shlex.quote(value)}" for name, value in choices.variables.items() if name != but]
    return " ".join([*told, command])


def _verb() -> str:
    """Return how one calls `leafe-verl` from the shell: a recipe's own environment is not active there."""
    script = Path(sys.executable).parent / "leafe-verl"
    # A checkout that was reached by a link has its environment at that path, and `.venv` itself may be a link.
    ours = Path(sys.prefix).parent.resolve() == CHECKOUT.resolve()
    return quoted(script) if script.is_file() and ours else "leafe-verl"
