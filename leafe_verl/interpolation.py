"""Weights between those before a training and those after it (WiSE-FT, arXiv 2109.01903). Beyond the paper.

    weights = (1 - share) * before + share * after

A small model that learns to recover from few examples unlearns some of its first turns. Halfway it keeps them, and some
of what it learned; recipes/results.md has what was measured.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from leafe_verl.checkpoints import hf_folder
from leafe_verl.model_config import StoredTensor, read_headers, weight_files

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
    tensors = read_headers(first)
    _require_alike(tensors, read_headers(last), (before, after))
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        shutil.copytree(last, partial, ignore=shutil.ignore_patterns(WEIGHTS))
        for file in weight_files(last):
            save_file(_between(tensors, file, share), partial / file.name, metadata={"format": "pt"})
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _local_folder(model: str) -> Path:
    if (folder := Path(model).expanduser()).is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, allow_patterns=[WEIGHTS, "*.json", "*.jinja", "*.txt", "*.model"]))


def _require_alike(first: Mapping[str, StoredTensor], last: Mapping[str, StoredTensor], models: Sequence[str]) -> None:
    for model, tensors in zip(models, (first, last), strict=True):
        if not tensors:
            raise ValueError(f"{model} has no {WEIGHTS}; expected a Hugging Face folder with weights in that form")
    before, after = models
    if different := sorted(first.keys() ^ last.keys()):
        raise ValueError(
            f"{before} and {after} are not the same kind of model: {len(different)} weights are in one of them alone, "
            f"such as {different[0]}"
        )
    for name, tensor in last.items():
        if tensor.shape != first[name].shape:
            raise ValueError(f"{name} has the shape {first[name].shape} in {before} and {tensor.shape} in {after}")


def _between(first: Mapping[str, StoredTensor], file: Path, share: float) -> dict[str, torch.Tensor]:
    """Return the interpolated tensors of one file of the later model."""
    found = {}
    for name, new in load_file(file).items():
        with safe_open(first[name].file, "pt") as earlier:
            found[name] = torch.lerp(earlier.get_tensor(name).float(), new.float(), share).to(new.dtype)
    return found
