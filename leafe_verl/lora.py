"""Adds a LoRA adapter to the weights that it was trained on, so that the folder holds one plain model.

verl's merger writes the *base* weights of a LoRA checkpoint and puts the adapter beside them, into `lora_adapter`
(`save_lora_adapter` in model_merger/base_model_merger.py). transformers and vLLM read such a folder as the base model
and say nothing.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ADAPTER = "lora_adapter"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"


def has_adapter(folder: Path) -> bool:
    """Return whether verl's merger has left an adapter beside the weights in a folder."""
    return (folder / ADAPTER).is_dir()


def is_bare_adapter(folder: Path) -> bool:
    """Return whether a folder is an adapter itself, as peft saves it, and no model."""
    return (folder / CONFIG).is_file()


def merge_adapter(folder: Path) -> None:
    """Add the adapter in `lora_adapter` to the weights in the folder, and remove it: W becomes W + scale * B A.

    Raises ValueError for an adapter that is not plain LoRA on weights of the folder, before anything is changed.
    """
    adapter = folder / ADAPTER
    config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    updates = _updates(adapter, config)
    files = sorted(folder.glob("*.safetensors"))
    _require_targets(folder, files, updates)
    for file in files:
        _add_to_file(file, updates, _scale(adapter, config), bool(config.get("fan_in_fan_out")))
    shutil.rmtree(adapter)


def merged_copy(folder: Path) -> Path:
    """Return a folder beside `folder` that holds its model with the adapter merged in, and write it if need be."""
    merged = folder.with_name(f"{folder.name}-with-{ADAPTER}")
    if is_newer(merged, folder / ADAPTER):
        return merged
    partial = merged.with_name(f"{merged.name}.partial-{os.getpid()}")
    try:
        shutil.copytree(folder, partial)
        merge_adapter(partial)
        shutil.rmtree(merged, ignore_errors=True)
        partial.rename(merged)
    except OSError as error:
        raise ValueError(f"{folder} holds a LoRA adapter, and {merged} could not be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return merged


def is_newer(made: Path, source: Path) -> bool:
    """Return whether a folder is there, with a file that is no older than any in the folder that it was made from."""
    return made.is_dir() and _written(made) >= _written(source)


def _written(folder: Path) -> float:
    # The time of a folder itself also changes when a file is removed, such as the optimiser's to save space.
    return max((path.stat().st_mtime for path in folder.iterdir() if path.is_file()), default=0.0)


def _updates(adapter: Path, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the pair (A, B) of each weight, by the weight's name. Raises ValueError for anything but plain LoRA."""
    from safetensors.torch import load_file

    asked = [name for name in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save") if config.get(name)]
    if asked or config.get("peft_type") != "LORA":
        raise ValueError(
            f"{adapter} is an adapter of type {config.get('peft_type')} with {', '.join(asked) or 'no option'}; "
            "only plain LoRA is merged here: merge it with peft's merge_and_unload, and give that folder"
        )
    tensors = load_file(adapter / WEIGHTS)
    names = {name.removesuffix(_A) for name in tensors if name.endswith(_A)}
    expected = {f"{name}{end}" for name in names for end in (_A, _B)}
    if strange := sorted(expected ^ tensors.keys()):
        raise ValueError(
            f"{adapter} holds {strange[0]}, which is no pair of lora_A and lora_B; merge it with peft's "
            "merge_and_unload, and give that folder"
        )
    return {f"{name.removeprefix(_PREFIX)}.weight": (tensors[name + _A], tensors[name + _B]) for name in names}


def _scale(adapter: Path, config: Mapping[str, Any]) -> float:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not rank or not alpha:
        raise ValueError(
            f"{adapter / CONFIG} says r={rank}, lora_alpha={alpha}, with which the adapter adds nothing; verl writes 0 "
            "where the checkpoint has no lora_train_meta.json: write the alpha of the training into it"
        )
    return float(alpha / math.sqrt(rank)) if config.get("use_rslora") else float(alpha / rank)


def _require_targets(folder: Path, files: list[Path], updates: Mapping[str, tuple[Any, Any]]) -> None:
    """Raise ValueError unless every update has its weight, of the right shape."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(file, "pt") as tensors:
            names = tensors.keys()  # the opened file itself cannot be iterated
            shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    for name, (a, b) in updates.items():
        if name not in shapes:
            raise ValueError(
                f"{folder} lacks {name}, which its LoRA adapter changes (of {len(updates)} weights); a checkpoint "
                "saved with save_lora_only has no base weights: merge the adapter into its base model with peft"
            )
        if sorted(shapes[name]) != sorted((b.shape[0], a.shape[1])):
            raise ValueError(f"{folder}: {name} has shape {shapes[name]}, and its adapter {b.shape[0], a.shape[1]}")


def _add_to_file(file: Path, updates: Mapping[str, tuple[Any, Any]], scale: float, transposed: bool) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    for name in tensors.keys() & updates.keys():
        a, b = (part.float() for part in updates[name])
        change = scale * (b @ a)
        weight = tensors[name]
        tensors[name] = (weight.float() + (change.T if transposed else change)).to(weight.dtype).contiguous()
    unfinished = file.with_suffix(".unfinished")
    save_file(tensors, unfinished, metadata)
    unfinished.replace(file)
