"""Hydra callbacks: what comes before and after a run of `python -m verl.trainer.main_ppo`, whoever starts it.

Hydra turns an Exception of a callback into a warning and goes on. SystemExit ends the run.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError
from verl.plugin.platform import set_platform

from leafe_verl.checkpoints import STEP, hf_folder, resumed_step, set_figures_aside
from leafe_verl.console.ending import RunChoices
from leafe_verl.console.marks import mark_warnings
from leafe_verl.console.run_console import LOG, VERBOSE, RunConsole, is_verbose
from leafe_verl.embedded import model_folder, prepare_model
from leafe_verl.environments.options import option_files
from leafe_verl.plugin.cluster import find_cluster_problems, joined_cluster, leave_out_sizes
from leafe_verl.plugin.cpu.fork_server import with_fork_server
from leafe_verl.plugin.cpu.platform import CpuPlatform
from leafe_verl.plugin.precision import record_precision
from leafe_verl.plugin.preflight.chat import describe_chat
from leafe_verl.plugin.preflight.engine import require_cpu_engine
from leafe_verl.plugin.preflight.memory import describe_memory
from leafe_verl.plugin.preflight.problems import find_problems
from leafe_verl.plugin.ray_job import require_kept
from leafe_verl.plugin.rollout.collected import index_steps
from leafe_verl.plugin.rollout.playbook_file import writes_playbook
from leafe_verl.run_lock import find_unfinished, hold
from leafe_verl.shell import quoted, shown
from leafe_verl.task_files import list_sources
from leafe_verl.trees.restarts import record_restart


def _refuse(text: str) -> NoReturn:
    """End the run with a message that reaches the terminal."""
    if ShowRun.console:
        ShowRun.console.release()
    raise SystemExit(f"leafe_verl refuses to start:{text if text.startswith(chr(10)) else f' {text}'}")


def _say(lines: list[str]) -> None:
    """Print lines to the terminal, which the console has taken from this process if it is open."""
    if ShowRun.console:
        ShowRun.console.say(lines)
    else:
        print(*lines, sep="\n", flush=True)


@contextmanager
def _refusing() -> Iterator[None]:
    """End the run upon any exception, which Hydra would only warn of."""
    try:
        yield
    except Exception as error:
        _refuse(str(_raised(error)))


def _raised(error: BaseException) -> BaseException:
    """Return what a resolver of ours raised, which OmegaConf wraps once for each interpolation around it."""
    while isinstance(error, InterpolationResolutionError) and error.__context__:
        error = error.__context__
    return error


class ResolveConfiguration(Callback):
    """Replaces every interpolation by its value, and takes out what is not for the Ray cluster of this run.

    verl hands parts of the configuration to Ray as they are, and the rest to another process, where the time and the
    environment may differ.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _refusing():
            for key in [key for key in config if key != "hydra"]:
                if OmegaConf.is_config(node := config[key]):
                    OmegaConf.resolve(node)
                else:
                    config[key] = node
            for folder in (config.run_dir, config.trainer.default_local_dir):
                require_kept(folder)
            leave_out_sizes(config)
            _make_absolute(config)
            _make_run_dir(Path(config.run_dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        # Hydra copies the jobs of a sweep before any callback could resolve them, and all would share one run_dir.
        _refuse("--multirun is not supported; start one command for each run")


def _make_absolute(config: DictConfig) -> None:
    """Make all paths of local files and folders absolute: workers may run in another folder.

    Raises ValueError if a job of Ray would lose what is written to one of them.
    """
    for key in ("train_files", "val_files"):
        config.data[key] = [*map(_absolute, list_sources(config.data[key]))]
    for key in ("default_local_dir", "resume_from_path"):
        if isinstance(path := config.trainer[key], str):
            config.trainer[key] = str(Path(path).expanduser().absolute())
    options = config.leafe.environment.options
    for name in option_files(options):
        options[name] = _absolute(options[name])
    for section, name in (("collection", "store"), ("evaluation", "store"), ("playbook", "path")):
        path = config.leafe[section][name]
        if not isinstance(path, str):  # null, or what the preflight refuses
            continue
        if section != "playbook" or writes_playbook(config):
            require_kept(path, f"leafe.{section}.{name}")
        config.leafe[section][name] = str(Path(path).expanduser().absolute())


def _absolute(source: Any) -> Any:
    """Return the absolute path of a file; what is no local file, such as a name of the hub, as it is."""
    path = Path(str(source)).expanduser()
    return str(path.absolute()) if path.is_file() else source


def _make_run_dir(folder: Path) -> None:
    """Create the run's folder, write there, and hold it. Raises ValueError if that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        held = hold(folder)
    except OSError as error:
        raise ValueError(
            f"RUN_DIR {folder} cannot be written ({error.strerror}); expected a folder of yours with room for "
            "checkpoints, as in RUN_DIR=/path/with/room before the recipe"
        ) from error
    if not held:
        raise ValueError(
            f"a run is going on in RUN_DIR {folder}; expected another folder, or that run to end (leafe-verl watch "
            f"{quoted(folder)} shows it)"
        )


class ShowRun(Callback):
    """Shows the run on the terminal, prints everything else to RUN_DIR/log.txt, and says how the run ended."""

    console: RunConsole | None = None
    """The console of this process's run, which a refusal closes; None before its folder is known."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _refusing():
            ShowRun.console = RunConsole(Path(config.run_dir), RunChoices.of(config))
            ShowRun.console.open(_heading(config))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        mark_warnings()  # Hydra has just replaced this process's log handlers

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if self.console is None:
            return
        if job_return.status is JobStatus.COMPLETED:
            self.console.succeed(trained=not config.trainer.val_only)
        else:
            self.console.fail(job_return._return_value)


def _heading(config: DictConfig) -> Iterator[str]:
    """Yield what is run, with what, and where."""
    trainer, run_dir = config.trainer, Path(config.run_dir)
    steps = f", {trainer.total_training_steps} steps" if trainer.total_training_steps else ""
    tasks = "" if trainer.val_only else f"{steps} of {config.data.train_batch_size} tasks"
    model = str(config.actor_rollout_ref.model.path)
    model = shown(Path(model)) if Path(model).is_absolute() else model  # else owner/name of the hub
    yield f"{trainer.v1.trainer_mode} on {config.leafe.environment.name} with {model}, {trainer.device}{tasks}"
    yield f"RUN_DIR={shown(run_dir)}"
    if address := joined_cluster(config):
        yield f"joins the Ray cluster at {address}, with that cluster's own CPUs and GPUs"
    if not trainer.val_only and not os.environ.get("RUN_DIR") and (unfinished := find_unfinished(run_dir)):
        yield f"a new run; RUN_DIR={quoted(unfinished)} before the command goes on with the last one, which did not end"
    step = _resumed_step(config)
    if step is not None:
        yield f"goes on after step {step}, from its checkpoint"
    if trees := _count_stored(config, (step or 0) + 1):
        yield f"takes the {trees:,} trees that step {(step or 0) + 1} has stored already, and collects the rest"
    if not is_verbose():
        yield f"verl, Ray and vLLM print to {shown(run_dir / LOG)}; {VERBOSE}=1 shows all of it here"


def _resumed_step(config: DictConfig) -> int | None:
    """Return the step whose checkpoint the run goes on from; None if it begins anew."""
    trainer = config.trainer
    if trainer.resume_mode == "resume_path":
        name = Path(str(trainer.resume_from_path)).name
        number = name.removeprefix(STEP)
        return int(number) if name.startswith(STEP) and number.isdecimal() else None
    return None if trainer.resume_mode == "disable" else resumed_step(Path(trainer.default_local_dir))


def _collects(config: DictConfig) -> bool:
    return bool(config.leafe.collection.store) and config.leafe.schedule.stages != "distil"


def _count_stored(config: DictConfig, step: int) -> int:
    """Return how many trees a step of this run finds that was interrupted; 0 where nothing is collected or stored."""
    if not _collects(config) or config.trainer.resume_mode != "auto":
        return 0
    found = index_steps(config.leafe.collection.store, str(config.trainer.experiment_name), step)
    return sum(stored == step for stored, _ in found)


class PrepareModel(Callback):
    """Makes the embedded model where it is the run's, and merges a checkpoint that is given as the model, once."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        model = config.actor_rollout_ref.model
        with _refusing(), open_dict(model):
            if model.path == str(model_folder()):
                prepare_model(model_folder())
            path = Path(hf_folder(model.path)).expanduser()
            model.path = str(path.absolute()) if path.is_dir() else model.path


class Preflight(Callback):
    """Refuses a run that would fail or be spoilt, with everything that is wrong at once. Records the precision."""

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _refusing():
            problems = find_problems(config) or find_cluster_problems(config)
        if problems:
            _refuse("\n" + "\n".join(f"- {problem}" for problem in problems))
        _say([describe_chat(config, config.leafe.generation.chat_family), describe_memory(config)])
        if not config.trainer.val_only:
            link_checkpoints(Path(config.run_dir), Path(config.trainer.default_local_dir))
            record_precision(config)
            if config.trainer.resume_mode == "disable":
                set_figures_aside(Path(config.run_dir))
            if _collects(config) and config.trainer.resume_mode != "auto":
                store, run = Path(config.leafe.collection.store), str(config.trainer.experiment_name)
                record_restart(store, run, _resumed_step(config) or 0)


def link_checkpoints(run_dir: Path, checkpoints: Path) -> None:
    """Make RUN_DIR/checkpoints, where all commands look, lead to where the user has verl save them."""
    usual = run_dir / "checkpoints"
    if checkpoints.absolute() == usual.absolute() or os.path.lexists(usual):
        return
    checkpoints.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # a file system without links
        run_dir.mkdir(parents=True, exist_ok=True)
        usual.symlink_to(checkpoints.absolute(), target_is_directory=True)


class ChoosePlatform(Callback):
    """Keeps verl from taking a GPU that `device=cpu` was not meant for, and refuses an inference engine that needs one.

    The workers of the run are told by cpu.yaml.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _refusing():
            require_cpu_engine(config)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.trainer.device == "cpu":
            set_platform(CpuPlatform())


class ForkWorkers(Callback):
    """Lets Ray's workers be forks of one process, where this run starts Ray on a machine without a GPU."""

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.trainer.device == "cpu" and not joined_cluster(config):
            os.environ.setdefault("RAY_RUNTIME_ENV_HOOK", f"{with_fork_server.__module__}.{with_fork_server.__name__}")
