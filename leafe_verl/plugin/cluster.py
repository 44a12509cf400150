"""Ray clusters: whether a run joins one, and what is refused before it starts on several nodes.

What the nodes must share cannot be seen from one of them, so each of them is asked, by a small task of Ray.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from leafe_verl.environments.options import option_files
from leafe_verl.plugin.ray_cores import RANK_CPUS
from leafe_verl.plugin.rollout.playbook_file import writes_playbook
from leafe_verl.task_files import HUB, list_sources

QUEUE = {"name": "TransferQueueController", "namespace": "transfer_queue"}
"""The actor by which all processes of a run, and of any other run in the cluster, find TransferQueue."""
SIZES = ("num_gpus", "num_cpus", "_system_config")
"""Arguments of ray.init in device/*.yaml that are for a new cluster. Ray refuses them where it joins one."""
JOIN_TIMEOUT = 60
"""Seconds in which the nodes of a cluster that is just being started may join it."""
ANSWER_TIMEOUT = 120
"""Seconds in which every node has to answer. A worker that Ray starts for it takes a few."""


def joined_cluster(config: DictConfig) -> str | None:
    """Return the address of the Ray cluster that ray.init will join; None if it will start one on this machine.

    Ray joins what RAY_ADDRESS or ray_init.address names, and otherwise what `ray start` has left on this machine.
    """
    from ray._private.utils import read_ray_address

    address = config.ray_kwargs.ray_init.get("address")
    if address in (None, "auto"):
        address = os.environ.get("RAY_ADDRESS") or address or read_ray_address()
    return None if address == "local" else address


def leave_out_sizes(config: DictConfig) -> None:
    """Take the sizes of a new cluster out of the configuration, if the run joins one that has sizes of its own."""
    ray_init = config.ray_kwargs.ray_init
    if joined_cluster(config):
        with open_dict(ray_init):
            for name in SIZES:
                ray_init.pop(name, None)


@dataclass(frozen=True)
class SharedPlaces:
    """What every node of a run must see."""

    folders: tuple[str, ...]
    """Folders that every node writes into: checkpoints and stores; and the one of a playbook that is written."""
    files: tuple[str, ...]
    """Files that every node reads: the model's config.json, local task files, a playbook that is only read, and those
    that the environment's options name."""
    token: str
    """Name of the file that the launcher has put into each folder."""

    @classmethod
    def read(cls, config: DictConfig) -> SharedPlaces:
        stores = (config.leafe.collection.store, config.leafe.evaluation.store)
        playbook = [path] if (path := config.leafe.playbook.path) else []
        written = [str(Path(path).parent) for path in playbook if writes_playbook(config)]
        folders = [config.run_dir, config.trainer.default_local_dir, *filter(None, stores), *written]
        model = Path(config.actor_rollout_ref.model.path).expanduser() / "config.json"
        sources = [*list_sources(config.data.train_files), *list_sources(config.data.val_files)]
        files = [*([str(model)] if model.is_file() else []), *(each for each in sources if not each.startswith(HUB))]
        files += [] if written else playbook
        options = config.leafe.environment.options
        files += [options[name] for name in option_files(options)]
        return cls(tuple(_outermost(folders)), tuple(dict.fromkeys(files)), f".leafe-{uuid.uuid4().hex}")


def _outermost(folders: Sequence[str]) -> list[str]:
    """Return the folders without those that lie below another of them."""
    paths = sorted({Path(folder).absolute() for folder in folders})
    return [str(path) for path in paths if not any(other in path.parents for other in paths)]


@dataclass(frozen=True)
class NodeAnswer:
    """What one node of the cluster said."""

    node: str
    """The address or name of the node."""
    gpus: int
    """How many GPUs Ray counts there."""
    problems: tuple[str, ...]
    """What it cannot see or write; empty if it sees everything."""
    cpus: float = math.inf
    """How many cores Ray counts there."""

    def fits(self, wanted: int, others: int) -> int:
        """Return how many times this node has `wanted` GPUs, and verl's cores for them beside `others`."""
        return max(int(min(self.gpus, (self.cpus - others) / RANK_CPUS) // wanted), 0)


Ask = Callable[[str, SharedPlaces, int], list[NodeAnswer]]
"""Asks every node of the cluster at an address, which may still grow until it has so many GPUs."""


def look(places: SharedPlaces) -> tuple[str, ...]:
    """Return what this node cannot see or write of what the launcher sees. Each node runs this."""
    problems = []
    for folder in map(Path, places.folders):
        if not (folder / places.token).is_file():
            problems.append(f"it does not see the launcher's {folder}")
            continue
        mine = folder / f"{places.token}-{socket.gethostname()}-{os.getpid()}"
        try:
            mine.touch()
            mine.unlink()
        except OSError as error:
            problems.append(f"it cannot write into {folder} ({error.strerror})")
    return (*problems, *(f"it has no {file}" for file in places.files if not Path(file).expanduser().is_file()))


def find_cluster_problems(config: DictConfig, ask: Ask | None = None) -> list[str]:
    """Return what would stop a run in a cluster. Looks only if one is joined, or trainer.nnodes is more than 1."""
    nodes, wanted = config.trainer.nnodes, config.trainer.n_gpus_per_node
    address = joined_cluster(config)
    if address is None and nodes == 1:
        return []
    if address is None:
        return [
            f"trainer.nnodes is {nodes}, and there is no Ray cluster to join; run `ray start --head` on one node and "
            "`ray start --address=HEAD:6379` on the others, and set RAY_ADDRESS (recipes/cluster has scripts)"
        ]
    places = SharedPlaces.read(config)
    with _marked(places):
        try:
            answers = (ask or ask_nodes)(address, places, nodes * wanted)
        except ClusterBusy as error:
            return [str(error)]
        except ConnectionError as error:
            return [_describe_silence(address, error)]
    # verl spreads rollout workers over all nodes of the cluster, whatever trainer.nnodes is.
    asked = answers if len(answers) > 1 else ()
    problems = [f"node {answer.node}: {problem}" for answer in asked for problem in answer.problems]
    if problems:
        problems.append(
            "expected RUN_DIR, MODEL, task files, stores and playbook on a file system that is mounted alike on every "
            "node"
        )
    # Beside its storage units, a node may hold the queue's controller, and must place actors that reserve no core.
    others = math.ceil(_storage_units(config) / max(len(answers), 1)) + 2
    if sum(answer.gpus // wanted for answer in answers) < nodes:
        problems.insert(0, _describe_size(nodes, wanted, answers, str(config.trainer.device)))
    elif sum(answer.fits(wanted, others) for answer in answers) < nodes:
        problems.insert(0, _describe_cores(nodes, wanted, answers, others))
    return problems


def _storage_units(config: DictConfig) -> int:
    """Return the number of TransferQueue's storage units, which have a core of Ray's each, spread over the nodes."""
    return int(OmegaConf.select(config, "transfer_queue.backend.SimpleStorage.num_data_storage_units") or 0)


def _describe_silence(address: str, error: ConnectionError) -> str:
    return (
        f"the Ray cluster at {address} does not answer ({error}); RAY_ADDRESS names it, or an earlier `ray start` on "
        "this machine has left it behind. Expected a cluster that lives, `ray stop`, which forgets one that does not, "
        "RAY_AUTH_MODE=token if it asks for the token of ~/.ray, or RAY_ADDRESS=local before the command, which starts "
        "a Ray of its own"
    )


def _describe_size(nodes: int, wanted: int, answers: Sequence[NodeAnswer], device: str) -> str:
    there = ", ".join(f"{answer.node} with {answer.gpus}" for answer in answers) or "none"
    logical = f"; without GPUs they are logical: ray start --num-gpus={wanted}" if device == "cpu" else ""
    return (
        f"trainer.nnodes is {nodes} with trainer.n_gpus_per_node {wanted}, and the cluster's nodes have fewer GPUs "
        f"({there}); start Ray on more nodes, or change these two settings{logical}"
    )


def _describe_cores(nodes: int, wanted: int, answers: Sequence[NodeAnswer], others: int) -> str:
    there = ", ".join(f"{answer.node} with {answer.cpus:g}" for answer in answers)
    needed = others + RANK_CPUS * wanted
    return (
        f"trainer.nnodes is {nodes} with trainer.n_gpus_per_node {wanted}, for which verl waits until a node has "
        f"{needed} of Ray's cores, and the cluster's nodes have fewer ({there}); they are logical: "
        f"ray start --num-cpus={needed}"
    )


@contextmanager
def _marked(places: SharedPlaces) -> Iterator[None]:
    """Put a file into each folder meanwhile, by which a node knows that it sees the launcher's folder."""
    marks = [Path(folder) / places.token for folder in places.folders]
    try:
        for mark in marks:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        yield
    finally:
        for mark in marks:
            with suppress(OSError):
                mark.unlink()


def ask_nodes(address: str, places: SharedPlaces, gpus: int) -> list[NodeAnswer]:
    """Ask every living node of a cluster, and leave the cluster again: verl joins it with settings of its own."""
    import ray

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        _wait_until_free(functools.partial(ray.util.list_named_actors, all_namespaces=True))
        nodes = _living_nodes(ray.nodes, gpus)
        asked = [_ask_node(node["NodeID"], places) for node in nodes]
        ray.wait(asked, num_returns=len(asked), timeout=ANSWER_TIMEOUT)
        return [
            NodeAnswer(node["NodeManagerAddress"], _gpus(node), _answer(answer), node["Resources"].get("CPU", 0))
            for node, answer in zip(nodes, asked, strict=True)
        ]
    finally:
        ray.shutdown()


class ClusterBusy(ValueError):
    """Another run is at work in the cluster."""


def _wait_until_free(list_actors: Callable[[], list[Any]]) -> None:
    """Return once no run of verl is at work. Raises ClusterBusy if one still is after JOIN_TIMEOUT, in which the actors
    of a run that has just been killed end. verl would let both runs sample from one queue."""
    end = time.monotonic() + JOIN_TIMEOUT
    while QUEUE in list_actors():
        if time.monotonic() > end:
            raise ClusterBusy(
                "another run of verl is at work in this Ray cluster, and both would take what either has sampled from "
                "one TransferQueue; expected a cluster of its own for each run, or the other run to end first"
            )
        time.sleep(1)


def _living_nodes(list_nodes: Callable[[], list[dict[str, Any]]], gpus: int) -> list[dict[str, Any]]:
    """Return the nodes that live. Waits for those that are still joining until they have so many GPUs together."""
    end = time.monotonic() + JOIN_TIMEOUT
    while True:
        nodes = [node for node in list_nodes() if node["Alive"]]
        if sum(map(_gpus, nodes)) >= gpus or time.monotonic() > end:
            return nodes
        time.sleep(1)


def _gpus(node: dict[str, Any]) -> int:
    return int(node["Resources"].get("GPU", 0))


def _ask_node(node: str, places: SharedPlaces) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    return ray.remote(look).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(places)


def _answer(asked: Any) -> tuple[str, ...]:
    """Return a node's answer, or the error in the place of one, as where leafe_verl is not installed there."""
    import ray

    try:
        return tuple(ray.get(asked, timeout=0))
    except Exception as error:
        said = str(error).strip().splitlines()
        return (f"it could not be asked: {type(error).__name__}: {said[-1] if said else 'no answer'}",)
