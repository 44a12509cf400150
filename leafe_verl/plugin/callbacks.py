"""Hydra callbacks: what comes before and after a run of `python -m verl.trainer.main_ppo`, whoever starts it.

Hydra turns an Exception of a callback into a warning and goes on. SystemExit ends the run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from leafe_verl.checkpoints import hf_folder
from leafe_verl.embedded import model_folder, prepare_model
from leafe_verl.evaluation.summary import read_metrics, render_summary
from leafe_verl.plugin.chat_check import describe_chat
from leafe_verl.plugin.cpu.fork_server import with_fork_server
from leafe_verl.plugin.memory_check import describe_memory
from leafe_verl.plugin.precision import record_precision
from leafe_verl.plugin.preflight import find_problems


@contextmanager
def _refusing() -> Iterator[None]:
    """End the run upon any exception, which Hydra would only warn of."""
    try:
        yield
    except Exception as error:
        raise SystemExit(f"leafe_verl refuses to start: {error}") from error


class ResolveConfiguration(Callback):
    """Replaces every interpolation by its value.

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
            Path(config.run_dir).mkdir(parents=True, exist_ok=True)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        # Hydra copies the jobs of a sweep before any callback could resolve them, and all would share one run_dir.
        raise SystemExit("leafe_verl refuses to start: --multirun is not supported; start one command for each run")


class PrepareModel(Callback):
    """Makes the embedded model where it is the run's, and merges a checkpoint that is given as the model, once."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        model = config.actor_rollout_ref.model
        with _refusing(), open_dict(model):
            if model.path == str(model_folder()):
                prepare_model(model_folder())
            model.path = hf_folder(model.path)


class Preflight(Callback):
    """Refuses a run that would fail or be spoilt, with everything that is wrong at once. Records the precision."""

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _refusing():
            problems = find_problems(config)
        if problems:
            raise SystemExit("leafe_verl refuses to start:\n" + "\n".join(f"- {problem}" for problem in problems))
        print(describe_chat(config, config.leafe.generation.chat_family), flush=True)
        print(describe_memory(config), flush=True)
        if not config.trainer.val_only:
            record_precision(config)


class ForkWorkers(Callback):
    """Lets Ray's workers be forks of one process, where this run starts Ray on a machine without a GPU."""

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.trainer.device == "cpu" and not os.environ.get("RAY_ADDRESS"):
            os.environ.setdefault("RAY_RUNTIME_ENV_HOOK", f"{with_fork_server.__module__}.{with_fork_server.__name__}")


class PrintSummary(Callback):
    """Prints the table of a training run that has ended well."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if job_return.status is not JobStatus.COMPLETED or config.trainer.val_only:
            return
        try:
            print(render_summary(read_metrics(Path(config.run_dir))))
        except ValueError as error:
            print(error)
