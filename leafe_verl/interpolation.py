"""Weights between those before a training and those after it (WiSE-FT, arXiv 2109.01903). Beyond the paper.

    weights = (1 - share) * before + share * after

A small model that learns to recover from few examples unlearns some of its first turns. Halfway it keeps them, and some
of what it learned; recipes/README.md has what was measured.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from leafe_verl.checkpoints import hf_folder

WEIGHTS = "*.safetensors"


def interpolate(before: str, after: str, share: float, out: Path) -> Path:
    """Write the model between two, with the tokenizer and the configuration of `after`, and return its folder.

    Args:
        before, after: Hugging Face folders, hub names, or checkpoints of a run. Their weights must have the same names
            and shapes; the numbers are computed in float32, and stored as those of `after` are.
        share: How far to go, above 0 and below 1.
        out: A new folder.

    Raises ValueError for other shares, models that are not alike or have no safetensors, and a folder that exists.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share is {share}; expected a number above 0 and below 1")
    if out.exists():
        raise ValueError(f"{out} exists; name a new folder")
    first, last = (_local_folder(hf_folder(model)) for model in (before, after))
    places, files = _places(first), sorted(last.glob(WEIGHTS))
    _require_same_names(places, _places(last), before, after)
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        shutil.copytree(last, partial, ignore=shutil.ignore_patterns(WEIGHTS))
        for file in files:
            save_file(_between(places, file, share), partial / file.name, metadata={"format": "pt"})
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _local_folder(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, allow_patterns=[WEIGHTS, "*.json", "*.jinja", "*.txt", "*.model"]))


def _places(folder: Path) -> dict[str, Path]:
    """Return the file of each tensor."""
    places: dict[str, Path] = {}
    for file in folder.glob(WEIGHTS):
        with safe_open(file, framework="pt") as tensors:
            places |= dict.fromkeys(tensors.keys(), file)
    if not places:
        raise ValueError(f"{folder} has no {WEIGHTS}; expected a Hugging Face folder with weights in that form")
    return places


def _require_same_names(first: Mapping[str, Path], last: Mapping[str, Path], before: str, after: str) -> None:
    if different := sorted(first.keys() ^ last.keys()):
        raise ValueError(
            f"{before} and {after} are not the same kind of model: {len(different)} weights are in one of them alone, "
            f"such as {different[0]}"
        )


def _between(places: Mapping[str, Path], file: Path, share: float) -> dict[str, torch.Tensor]:
    """Return the interpolated tensors of one file of the later model."""
    found = {}
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118  # it cannot be iterated over
            new = tensors.get_tensor(name)
            with safe_open(places[name], framework="pt") as earlier:
                old = earlier.get_tensor(name)
            if old.shape != new.shape:
                raise ValueError(f"{name} has the shape {tuple(old.shape)} before and {tuple(new.shape)} after")
            found[name] = torch.lerp(old.float(), new.float(), share).to(new.dtype)
    return found
