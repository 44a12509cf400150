"""What a machine lacks for a run, said before Ray starts: a library, shared memory, disk, a short path for sockets."""

from __future__ import annotations

import ctypes
import os
import shutil
from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from leafe_verl.model_config import ModelShape
from leafe_verl.plugin.cluster import joined_cluster
from leafe_verl.plugin.dtypes import bytes_of
from leafe_verl.plugin.preflight.cpu_memory import GIB
from leafe_verl.plugin.preflight.memory import ANYWAY

BUCKET = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes"
NUMA = "libnuma.so.1"
"""What the kernels of vLLM's CPU build are linked to, and the wheel does not bring."""
LONGEST_SOCKET = 107
"""Bytes that Linux takes for the path of a socket."""
SESSION = len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Bytes of what Ray adds to its temporary folder; see ray/_private/node.py. A process id has up to seven digits."""
SAVED_BYTES = {"model": 4, "optimizer": 8}
"""Bytes of a saved float32 parameter, by what `checkpoint.save_contents` names: its value, and AdamW's two moments."""


def machine_problems(config: DictConfig) -> list[str]:
    """Return what a run on this machine alone would fail at, whatever its settings are."""
    if joined_cluster(config):
        return []
    return [*(_library_problems() if config.trainer.device == "cpu" else []), *_socket_problems(config)]


def room_problems(config: DictConfig) -> list[str]:
    """Return which of the places on this machine that a run writes to are too small."""
    return [*_shared_memory_problems(config), *_disk_problems(config)]


def _library_problems(name: str = NUMA) -> list[str]:
    with suppress(OSError):
        ctypes.CDLL(name)
        return []
    return [f"vLLM's CPU build needs {name}, which is not here; apt-get install libnuma1 (or dnf install numactl-libs)"]


def _socket_problems(config: DictConfig) -> list[str]:
    """Return why Ray could not open its sockets, which are below its temporary folder."""
    if config.ray_kwargs.ray_init.get("_temp_dir"):
        return []
    for variable in ("RAY_TMPDIR", "TMPDIR"):  # in the order in which Ray looks
        if folder := os.environ.get(variable):
            longest = LONGEST_SOCKET - SESSION
            if len(os.fsencode(folder.rstrip("/"))) <= longest:
                return []
            return [
                f"{variable} is {folder}, and Ray's sockets below it need a folder whose name has at most {longest} "
                "bytes; put RAY_TMPDIR=/tmp before the command"
            ]
    return []


def _shared_memory_problems(config: DictConfig, folder: str = "/dev/shm") -> list[str]:
    """Return why the weights cannot travel to the inference server, which they do through shared memory.

    verl makes the bucket without asking for its room: the first write beyond it would end the trainer.
    """
    bucket = OmegaConf.select(config, BUCKET)
    if config.trainer.device != "cpu" or not bucket or not Path(folder).is_dir():
        return []
    free = shutil.disk_usage(folder).free / 2**20
    if free >= bucket:
        return []
    return [
        f"{folder} has {free:.0f} MiB free, and weights travel through {bucket} of them ({BUCKET}); give it more, in a "
        "container by docker run --shm-size=2g (Kubernetes: an emptyDir of medium Memory there)"
    ]


def _disk_problems(config: DictConfig) -> list[str]:
    """Return why not even one checkpoint could be saved. The size of some models is not known."""
    trainer, role = config.trainer, config.actor_rollout_ref
    folder, model = str(trainer.default_local_dir), ModelShape.read(str(role.model.path))
    if not _saves(config) or model is None or trainer.nnodes > 1 or "://" in folder:
        return []
    place = next(each for each in (Path(folder), *Path(folder).parents) if each.exists())
    saved = sum(SAVED_BYTES.get(content, 0) for content in role.actor.checkpoint.save_contents)
    numbers = model.parameters * bytes_of(role.actor.fsdp_config.get("model_dtype"), 4) // 4
    need, free = saved * numbers, shutil.disk_usage(place).free
    if free >= need:
        return []
    return [
        f"a checkpoint of this model takes {need / GIB:.1f} GiB, and {free / GIB:.1f} GiB are free in {place}; put a "
        f"folder with more room in RUN_DIR. {ANYWAY}"
    ]


def _saves(config: DictConfig) -> bool:
    """Return whether a run saves all weights; LoRA's are few. A `save_freq` of null is planned later."""
    trainer = config.trainer
    explores = trainer.v1.trainer_mode == "leafe" and config.leafe.schedule.stages == "explore"
    every = trainer.save_freq
    return not (trainer.val_only or explores or config.actor_rollout_ref.model.get("lora_rank")) and (
        every is None or every > 0
    )
