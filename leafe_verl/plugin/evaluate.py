"""`leafe-verl evaluate`: what is missing in a store is played by verl's own launcher, then the figures are printed."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from leafe_verl.checkpoints import fingerprint_weights, hf_folder
from leafe_verl.core import Task
from leafe_verl.core.settings import EnvironmentSettings, ReflectionSettings
from leafe_verl.environments import make
from leafe_verl.environments.code_environment import answers_with_code
from leafe_verl.evaluation.given import GivenRun, render_given
from leafe_verl.evaluation.histories import FOLDER
from leafe_verl.evaluation.manifest import Manifest, fingerprint, read_manifest, write_manifest
from leafe_verl.evaluation.report import render_evaluation
from leafe_verl.evaluation.results import missing_attempts, read_evaluation
from leafe_verl.plugin.given_request import GivenHistories, GivenRequest, find_histories, require_room
from leafe_verl.plugin.precision import describe_mixing, find_precision
from leafe_verl.plugin.preflight.model import EXPECTED as MODEL_EXPECTED
from leafe_verl.plugin.preflight.problems import find_problems
from leafe_verl.plugin.ray_job import require_kept
from leafe_verl.plugin.resolvers import read_variable
from leafe_verl.plugin.settings import RunSettings
from leafe_verl.plugin.sizes import model_window
from leafe_verl.processes import end_with_parent, leaving_ctrl_c_to_the_child
from leafe_verl.task_files import HUB, list_sources, read_tasks

CONFIG_MODULE = "leafe_verl.plugin.config"
SEED_STRIDE = 1000
"""Between the rollout seeds of two calls: verl adds a replica's number to the seed, and equal seeds would draw the
same attempts again."""
IN_FLIGHT = 512
"""Attempts at once for each GPU, or for the CPU: enough to keep a server busy, few enough to be answered in time."""
VERSIONED = ("leafe-verl", "verl", "vllm", "torch", "transformers")


@dataclass(frozen=True)
class EvaluationRequest:
    """The verb's arguments."""

    model: str | None
    """Hugging Face folder, hub name or checkpoint; None: the configuration's own."""
    sources: tuple[str, ...]
    """Task files; none: those of the configuration's environment."""
    out: Path
    attempts: int
    """Of each task, or of each given history; with loop `explore`, the budget of its one tree."""
    max_tasks: int | None
    """None: all."""
    loop: str
    device: str
    """`cpu`, `gpu`, or `auto`: GPUs if there are any."""
    overrides: tuple[str, ...]
    """Hydra's, as a recipe takes them."""
    given: GivenRequest | None = None
    """The failed histories that attempts go on from. None: they begin at the task's start."""


def evaluate(request: EvaluationRequest) -> int:
    """Complete the store and print its table. Return 1 when verl failed, else 0, also for unscored attempts.

    Raises ValueError for a request that cannot be met: bad settings, or a store made with other ones.
    """
    if request.out.exists() and not request.out.is_dir():
        raise ValueError(f"--out {request.out} is a file; expected a new folder, or an evaluation to continue")
    require_kept(str(request.out))
    named = request.model or read_variable("MODEL")
    model = _model(named) if named else None
    request = dataclasses.replace(request, model=model, out=request.out.expanduser().resolve())
    overrides = _overrides(request, _gpus(request.device))
    config = _compose(overrides)
    if problems := _in_words_of_the_verb(find_problems(config), request):
        raise ValueError("leafe-verl evaluate refuses to start:\n" + "\n".join(f"- {problem}" for problem in problems))
    given = _given(request, config)
    tasks = given.tasks if given else _tasks(config)
    manifest = _resumed(request.out, _manifest(request, config, tasks, given))
    keys, wanted = given.keys if given else [task.key for task in tasks], config.data.attempts
    missing = missing_attempts(read_evaluation(request.out), keys, wanted)
    status = 0
    if missing:
        manifest = _with_collection(manifest, config.actor_rollout_ref.rollout.seed, request.device)
        print(f"{request.out} lacks {sum(missing.values())} {_describe_missing(manifest, len(missing))}", flush=True)
        if given:
            given.keep(request.out)
        status = _launch(manifest, overrides, request.out)
    records = read_evaluation(request.out)
    run = GivenRun(request.out.name, manifest, records, given.drawn) if given else None
    print(render_given(run) if run else render_evaluation(manifest, records))
    left = sum(missing_attempts(records, keys, wanted).values())
    if left:
        print(f"\nstill without a score: {left}; the same command tries again")
    return int(status != 0)


def _describe_missing(manifest: Manifest, number: int) -> str:
    what = "exploration trees" if manifest.explores else "attempts"
    return f"{what} of {number} {'given histories' if manifest.given else 'tasks'}"


def _model(model: str) -> str:
    folder = hf_folder(model)
    return str(Path(folder).expanduser().resolve()) if Path(folder).expanduser().exists() else folder


def _gpus(device: str) -> int:
    """Return the number of GPUs to use; 0 for the CPU."""
    import torch

    found = 0 if device == "cpu" else torch.cuda.device_count()
    if device == "gpu" and not found:
        raise ValueError("--device is gpu, but torch sees none; take --device cpu, or install a CUDA build of torch")
    return found


def _overrides(request: EvaluationRequest, gpus: int) -> list[str]:
    """Return the overrides that evaluate.yaml leaves open; the user's own come last, so that they win."""
    explores = request.loop == "explore"
    own = [
        *(["device=gpu", f"trainer.n_gpus_per_node={gpus}"] if gpus else ["device=cpu"]),
        *([f"actor_rollout_ref.model.path={_quoted(request.model)}"] if request.model else []),
        *([f"data.val_files=[{','.join(map(_quoted, map(_source, request.sources)))}]"] if request.sources else []),
        f"data.val_max_samples={request.max_tasks or -1}",
        f"data.val_batch_size={max(1, IN_FLIGHT * max(gpus, 1) // request.attempts)}",
        f"leafe.evaluation.loop={request.loop}",
        f"leafe.evaluation.store={_quoted(str(request.out))}",
        *([f"leafe.evaluation.given={_quoted(str(request.out / FOLDER))}"] if request.given else []),
        f"actor_rollout_ref.rollout.val_kwargs.n={1 if explores else request.attempts}",
        *([f"leafe.budget.attempts={request.attempts}"] if explores else []),
    ]
    return [*own, *request.overrides]


def _source(source: str) -> str:
    return source if source.startswith(HUB) else str(Path(source).expanduser().resolve())


def _quoted(text: str) -> str:
    """Return a path as a Hydra value: it may hold commas, equals signs, blanks, quotes and backslashes.

    In Hydra's grammar backslashes are doubled before a quote, the closing one included, and nowhere else.
    """
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text) + "'"


def _compose(overrides: Sequence[str]) -> DictConfig:
    """Return the configuration. Raises ValueError for an override that Hydra refuses."""
    try:
        with initialize_config_module(CONFIG_MODULE, version_base=None):
            return compose("evaluate", overrides=list(overrides))
    except HydraException as error:
        raise ValueError(str(error)) from error


def _in_words_of_the_verb(problems: Sequence[str], request: EvaluationRequest) -> list[str]:
    """Return problems that name the arguments which the user gave, and not the keys that those become."""
    words = {MODEL_EXPECTED: "give a Hugging Face folder, owner/name or a checkpoint of a run in --model"}
    if request.sources:  # the configuration takes them for both sets of tasks
        words |= {"data.train_files: ": "--tasks: ", "data.val_files: ": "--tasks: "}
    told = [*problems]
    for key, name in words.items():
        told = [problem.replace(key, name) for problem in told]
    return list(dict.fromkeys(told))


def _tasks(config: DictConfig) -> list[Task]:
    """Return the tasks that EvaluationDataset reads."""
    environment = config.leafe.environment.name
    several = config.leafe.environment.several_answers
    tasks = [
        task for source in list_sources(config.data.val_files) for task in read_tasks(source, environment, several)
    ]
    if len({task.key for task in tasks}) < len(tasks):
        raise ValueError("two of the --tasks files share a task key; evaluate them into an --out each")
    return tasks[: config.data.val_max_samples] if config.data.val_max_samples > 0 else tasks


def _given(request: EvaluationRequest, config: DictConfig) -> GivenHistories | None:
    if request.given is None:
        return None
    if request.loop == "explore":
        raise ValueError("--from plays plain attempts; leave out --loop explore")
    task_keys = {task.key for task in _tasks(config)} if request.sources else None
    return find_histories(request.given, request.out, config, task_keys)


def _manifest(
    request: EvaluationRequest, config: DictConfig, tasks: Sequence[Task], given: GivenHistories | None
) -> Manifest:
    values: Mapping[str, Any] = OmegaConf.to_container(config.leafe, resolve=True)  # type: ignore[assignment]
    rollout, environment = config.actor_rollout_ref.rollout, config.leafe.environment
    sampling = {name: rollout.val_kwargs[name] for name in ("temperature", "top_p", "top_k")}
    if request.loop == "explore":
        sampling["roots"] = rollout.n
    own_horizon = make(environment.name, **RunSettings.from_mapping(values).environment.options).horizon
    if given:
        require_room(given, environment.horizon or own_horizon)
    return Manifest(
        model=config.actor_rollout_ref.model.path,
        sources=() if given and not request.sources else tuple(list_sources(config.data.val_files)),
        tasks=fingerprint(tasks),
        loop=request.loop,
        sampling=sampling,
        horizon=environment.horizon or own_horizon,
        window=model_window(config),
        leafe=_decisive(values, request.loop),
        attempts=request.attempts,
        dtype=find_precision(config),
        weights=fingerprint_weights(config.actor_rollout_ref.model.path),
        template=_template(config),
        given=given.manifest if given else None,
    )


def _template(config: DictConfig) -> dict[str, Any] | None:
    model = config.actor_rollout_ref.model
    chosen = OmegaConf.to_container(OmegaConf.create(config.data.get("apply_chat_template_kwargs") or {}), resolve=True)
    template, tokenizer = model.get("custom_chat_template"), model.get("tokenizer_path")
    found = {
        "options": chosen,
        "custom": template and hashlib.sha256(template.encode()).hexdigest()[:16],
        "tokenizer": None if tokenizer == model.path else tokenizer,
    }
    return {name: value for name, value in found.items() if value} or None


def _decisive(values: Mapping[str, Any], loop: str) -> dict[str, Any]:
    """Return the `leafe` settings that decide what is played, without those of speed and of training."""
    environment = {key: values["environment"][key] for key in ("name", "step_timeout", "options")}
    generation = {key: values["generation"][key] for key in ("max_tokens", "chat_family")}
    for key in ("thought_tokens", "earlier_thoughts"):  # absent if null, as in manifests of earlier versions
        if (value := values["generation"].get(key)) is not None:
            generation[key] = value
    if values["generation"]["stop_at"] and answers_with_code(environment["name"]):
        generation["stop_at"] = values["generation"]["stop_at"]
    decisive = {"environment": environment, "generation": generation, "seed": values["seed"]}
    if (limit := values["environment"]["max_characters"]) != EnvironmentSettings().max_characters:
        environment["max_characters"] = limit
    if loop == "explore":
        decisive |= {"budget": values["budget"], "reflection": {**values["reflection"]}}
        if values["reflection"]["reads"] == ReflectionSettings().reads:
            del decisive["reflection"]["reads"]
        if targets := values["distillation"]["recovery_targets"]:  # the steps of confirming them come off the budget
            decisive["recovery_targets"] = targets
    if values["context"]["window"] is not None:
        decisive["context"] = values["context"]
    playbook = values.get("playbook", {})
    if (path := playbook.get("path")) and Path(path).is_file():
        decisive["playbook"] = {**playbook, "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]}
    return decisive


def _resumed(out: Path, manifest: Manifest) -> Manifest:
    """Return the store's own manifest, if there is one, with the higher number of attempts; else this one.

    Raises ValueError if the store was made with other settings.
    """
    present = read_manifest(out)
    if present is None:
        if read_evaluation(out):
            raise ValueError(
                f"{out} holds attempts but no evaluation.json that says how they came; choose another --out"
            )
        return manifest
    if present.dtype and manifest.dtype and present.dtype != manifest.dtype:
        raise ValueError(describe_mixing(f"the evaluation in {out}", present.dtype, manifest.dtype))
    if differences := manifest.differences(present):
        raise ValueError(
            f"{out} was made with other settings; choose another --out, or give the same:\n"
            + "\n".join(f"- {difference}" for difference in differences)
        )
    return dataclasses.replace(present, attempts=max(present.attempts, manifest.attempts), sources=manifest.sources)


def _with_collection(manifest: Manifest, seed: int, device: str) -> Manifest:
    collection = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed + SEED_STRIDE * len(manifest.collections),
        "versions": {name: found for name in VERSIONED if (found := _version(name))},
        "machine": {"cores": os.cpu_count(), "gpus": [] if device == "cpu" else _gpu_names()},
    }
    return dataclasses.replace(manifest, collections=(*manifest.collections, collection))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpu_names() -> list[str]:
    # Asking torch would keep some hundred MB on the first of them while verl runs.
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return []
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


def _launch(manifest: Manifest, overrides: Sequence[str], out: Path) -> int:
    """Run `python -m verl.trainer.main_ppo` and return its exit status."""
    write_manifest(out, manifest)
    command = [
        *[sys.executable, "-m", "verl.trainer.main_ppo"],
        *["--config-path", f"pkg://{CONFIG_MODULE}", "--config-name", "evaluate"],
        *overrides,
        f"actor_rollout_ref.rollout.seed={manifest.collections[-1]['seed']}",
    ]
    with leaving_ctrl_c_to_the_child():
        status = subprocess.run(command, preexec_fn=end_with_parent).returncode
    if status:
        print(f"\nverl ended with status {status}; what it collected until then is kept in {out}\n")
    return status
