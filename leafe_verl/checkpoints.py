"""What a RUN_DIR holds beside trees, and the way from a checkpoint of verl to a Hugging Face folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from leafe_verl.files import replace_text
from leafe_verl.lora import has_adapter, is_bare_adapter, is_newer, merge_adapter, merged_copy

MERGER_LINES = 20
"""How much of what a failed merger printed is told."""
MERGED = "merged"
"""Name of the Hugging Face folder beside a checkpoint's `actor`."""
STEP = "global_step_"
PRECISION = "precision.json"
"""The record of the precision that a training run computes in, in its RUN_DIR."""
SAMPLES, SAMPLE_BYTES = 256, 4096
"""How much of each file of weights `fingerprint_weights` reads."""
TRACKER = "latest_checkpointed_iteration.txt"
_NUMBER = re.compile("0|[1-9][0-9]{0,17}")


def tree_store(checkpoints: Path) -> Path:
    """Return the folder of a run's trees."""
    return checkpoints / "trees"


def fingerprint_weights(model: str) -> str | None:
    """Return a hash of samples of a Hugging Face folder's weights, which training changes nearly everywhere; None for a
    name of the hub."""
    files = sorted(file for form in ("*.safetensors", "*.bin") for file in Path(model).expanduser().glob(form))
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as opened:
            for sample in range(SAMPLES):
                opened.seek(size * sample // SAMPLES)
                digest.update(opened.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16] if files else None


def read_precision(run_dir: Path) -> str | None:
    """Return the precision of the run in a folder; None if there is none, or if a kill left the record empty."""
    try:
        dtype: str = json.loads((run_dir / PRECISION).read_text(encoding="utf-8"))["dtype"]
    except (OSError, ValueError):
        return None
    return dtype


def set_figures_aside(run_dir: Path) -> None:
    """Rename the metrics and validations of a former run, so that those of one that begins anew stand alone."""
    for path in (*run_dir.glob("metrics-*.jsonl"), run_dir / "validations.jsonl"):
        if path.is_file():
            path.rename(path.with_name(f"{path.name}.former-{path.stat().st_mtime_ns}"))


def hf_folder(model: str) -> str:
    """Return a Hugging Face folder or hub name for `model`, merging a checkpoint's shards if need be.

    `model` is returned as it is unless it is a folder with a checkpoint of verl's FSDP engine
    (RUN_DIR/checkpoints/global_step_N, or `actor` in it). Its merged weights are kept beside `actor` and found again,
    unless the checkpoint was saved again since.
    A LoRA adapter that lies beside weights is merged into them, since it would be left out silently otherwise.
    Raises ValueError for a folder that is neither, for an adapter alone, and when verl's merger fails.
    """
    path = Path(model).expanduser()
    if not path.is_dir():
        return model
    if is_bare_adapter(path):
        raise ValueError(
            f"{model} is a LoRA adapter, not a model ({_base_of(path)}); merge it into its base model with peft's "
            "merge_and_unload, and give that folder"
        )
    if _has_weights(path) and not _is_lora_part(path):
        return str(merged_copy(path)) if has_adapter(path) else model
    if path.is_symlink():  # RUN_DIR/checkpoints/best, which may point elsewhere before the merger has ended
        path = path.resolve()
    actor = next((folder for folder in (path, path / "actor", path.parent) if _is_sharded(folder)), None)
    if actor is None:
        steps = sorted(step.as_posix() for step in path.glob("**/global_step_*") if _is_sharded(step / "actor"))
        there = f"; there are {', '.join(steps)}" if steps else ""
        raise ValueError(
            f"{model} is no model: expected a Hugging Face folder (config.json and weights) or a checkpoint "
            f"(RUN_DIR/checkpoints/global_step_N){there}"
        )
    merged = actor.parent / MERGED
    if not _is_current(merged, actor):
        _merge(actor, merged)
    return str(merged)


def _base_of(adapter: Path) -> str:
    base = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    return f"its base model is {base}" if base else "it does not say of which base model"


def _is_lora_part(folder: Path) -> bool:
    """`actor/huggingface` of a LoRA checkpoint: with `hf_model` in save_contents verl writes weights there under
    peft's names, which transformers replaces by random ones."""
    return (folder.parent / "lora_train_meta.json").is_file() and _is_sharded(folder.parent)


def _has_weights(folder: Path) -> bool:
    """A checkpoint's `actor/huggingface` has a config.json as well, but no weights."""
    names = ("*.safetensors", "*.bin")
    return (folder / "config.json").is_file() and any(any(folder.glob(name)) for name in names)


def _is_sharded(folder: Path) -> bool:
    return (folder / "fsdp_config.json").is_file()


def _is_current(merged: Path, actor: Path) -> bool:
    """Return whether a merged folder holds the weights of the shards. A run that begins anew saves its steps into the
    folders of the former ones, and an earlier version left the base weights with the adapter beside them."""
    return is_newer(merged, actor) and not has_adapter(merged)


def _merge(actor: Path, merged: Path) -> None:
    """Run verl's merger into a temporary name: a killed one must not be taken for whole."""
    partial = merged.with_name(f"{MERGED}.partial-{os.getpid()}")
    run_dir = actor.parent.parent.parent  # of RUN_DIR/checkpoints/global_step_N/actor
    exact = (read_precision(run_dir) or "").startswith("float32")
    merger = "leafe_verl.exact_merger" if exact else "verl.model_merger"
    command = [sys.executable, "-m", merger, "merge", "--backend", "fsdp"]
    command += ["--local_dir", str(actor), "--target_dir", str(partial)]
    try:
        # To the error stream, since the caller's output is the folder alone. Large models take minutes.
        print(f"merging the shards in {actor}", file=sys.stderr, flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        if done.returncode or not _has_weights(partial):
            said = "\n".join(done.stdout.splitlines()[-MERGER_LINES:])
            raise ValueError(f"verl's merger could not merge {actor} (exit status {done.returncode}). It said:\n{said}")
        if has_adapter(partial):
            merge_adapter(partial)
        if not _is_current(merged, actor):  # else another process was faster
            shutil.rmtree(merged, ignore_errors=True)
            partial.rename(merged)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def step_of(folder: Path) -> int | None:
    """Return the training step of a checkpoint's folder, global_step_N; None for any other, such as a copy of one."""
    number = folder.name.removeprefix(STEP) if folder.name.startswith(STEP) else ""
    return int(number) if _NUMBER.fullmatch(number) and folder.is_dir() else None


def saved_steps(checkpoints: Path) -> dict[int, Path]:
    """Return training step -> folder, in the order of steps, of the checkpoints that are there, whole or not."""
    found = {step: folder for folder in checkpoints.glob(f"{STEP}*") if (step := step_of(folder)) is not None}
    return dict(sorted(found.items()))


def is_whole(checkpoint: Path) -> bool:
    """Return whether a checkpoint was written to its end. `data.pt` is what verl writes last of it."""
    return (checkpoint / "data.pt").is_file()


def read_tracker(checkpoints: Path) -> int | None:
    """Return the training step that `latest_checkpointed_iteration.txt` names; None if it is missing or torn."""
    try:
        text = (checkpoints / TRACKER).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return int(text) if _NUMBER.fullmatch(text) else None


def resumed_step(checkpoints: Path) -> int | None:
    """Return the step whose checkpoint a run in this folder goes on from; None if it begins anew.

    This is the one that the tracker names. If it is torn or names a checkpoint that is gone, it is the latest whole
    one. verl begins anew without a tracker.
    """
    if not (checkpoints / TRACKER).is_file():
        return None
    named, saved = read_tracker(checkpoints), saved_steps(checkpoints)
    return named if named in saved else max((step for step in saved if is_whole(saved[step])), default=None)


def repair_tracker(checkpoints: Path) -> int | None:
    """Make `latest_checkpointed_iteration.txt` name what `resumed_step` returns, and return that.

    verl writes that file in place (`_save_checkpoint`, trainer_base.py): a process killed meanwhile leaves it empty,
    and the run could not be resumed.
    """
    tracker, step = checkpoints / TRACKER, resumed_step(checkpoints)
    named = read_tracker(checkpoints)
    if step is None and named is None:
        tracker.unlink(missing_ok=True)
    elif step is not None and step != named:
        replace_text(tracker, str(step))
    return step
