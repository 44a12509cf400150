"""The precision that a run computes in. It stands in every tree and evaluation, and two of them are never mixed."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from leafe_verl.checkpoints import PRECISION, read_precision, resumed_step
from leafe_verl.plugin.dtypes import full_name
from leafe_verl.trees import read_rows


def find_precision(config: DictConfig) -> str:
    """Return what rollout and trainer compute in, such as "float32", or "bfloat16 (rollout), float32 (trainer)"."""
    keys = ("rollout.dtype", "actor.fsdp_config.mixed_precision.param_dtype")
    # bfloat16 is verl's default of both; see RolloutConfig and transformer_impl.py.
    given = (OmegaConf.select(config, f"actor_rollout_ref.{key}") or "bfloat16" for key in keys)
    rollout, trainer = (full_name(str(name)) for name in given)
    return rollout if rollout == trainer else f"{rollout} (rollout), {trainer} (trainer)"


def describe_mixing(what: object, there: str, here: str) -> str:
    """Say that something was computed in another precision than this run computes in, and what to do."""
    return (
        f"{what} was computed in {there}, and this run computes in {here}; precisions are not mixed. Without a GPU, "
        f"LEAFE_CPU_DTYPE={there.split()[0]} computes in that precision; with one, actor_rollout_ref.rollout.dtype and "
        "actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype do. Or name another folder"
    )


def precision_problems(config: DictConfig) -> list[str]:
    """Return what was computed in another precision before: the run that is resumed, and the trees of its store.

    Runs and trees that do not say what they were computed in are accepted.
    """
    here, run_dir = find_precision(config), Path(str(OmegaConf.select(config, "run_dir") or "."))
    problems = []
    if (there := read_precision(run_dir)) and there != here and _has_begun(config):
        problems.append(describe_mixing(f"the run in {run_dir}", there, here))
    if store := OmegaConf.select(config, "leafe.collection.store"):
        found = {row["dtype"] for _, row in read_rows(store, ("dtype",))} - {None, here}
        problems += [describe_mixing(f"a tree in leafe.collection.store={store}", there, here) for there in found]
    return problems


def record_precision(config: DictConfig) -> None:
    """Write the precision of a training run into its RUN_DIR, where a resumed run finds it."""
    folder = Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PRECISION).write_text(json.dumps({"dtype": find_precision(config)}) + "\n", encoding="utf-8")


def _has_begun(config: DictConfig) -> bool:
    """Return whether the run has a checkpoint that it would go on from."""
    folder = OmegaConf.select(config, "trainer.default_local_dir")
    return folder is not None and resumed_step(Path(folder)) is not None
