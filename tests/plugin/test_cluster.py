"""Runs that join a Ray cluster: what is left out of the configuration, and what is refused on several nodes."""

import dataclasses
import os
from pathlib import Path

import pytest

pytest.importorskip("verl", reason="verl is not installed")

import ray._private.utils
from hydra import compose, initialize_config_module

from leafe_verl.embedded import TRAIN_FILE
from leafe_verl.plugin import cluster, resolvers
from leafe_verl.plugin.callbacks import ResolveConfiguration, _heading
from leafe_verl.plugin.cluster import NodeAnswer, SharedPlaces, find_cluster_problems, joined_cluster, look
from leafe_verl.plugin.evaluate import EvaluationRequest, evaluate

RAYS_FOLDER = "/tmp/ray/session_x/runtime_resources/working_dir_files/_ray_pkg_0"


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No cluster is on this machine, and this is no job."""
    monkeypatch.setattr(ray._private.utils, "read_ray_address", lambda: None)
    for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    resolvers.run_dir.cache_clear()
    yield
    resolvers.run_dir.cache_clear()


@pytest.fixture
def config(tmp_path):
    def build(*overrides, run_dir=tmp_path / "run", device="cpu", name="leafe"):
        place = [f"run_dir={run_dir}"] if run_dir else []
        given = [f"device={device}", f"data.train_files={TRAIN_FILE}", *place, *overrides]
        with initialize_config_module("leafe_verl.plugin.config", version_base=None):
            return compose(name, overrides=given)

    return build


def test_a_run_joins_what_ray_joins(config, monkeypatch):
    assert joined_cluster(config()) is None
    assert joined_cluster(config("+ray_kwargs.ray_init.address=head:6379")) == "head:6379"
    monkeypatch.setattr(ray._private.utils, "read_ray_address", lambda: "started:6379")
    assert joined_cluster(config()) == "started:6379"
    monkeypatch.setenv("RAY_ADDRESS", "named:6379")
    assert joined_cluster(config()) == "named:6379"
    assert joined_cluster(config("+ray_kwargs.ray_init.address=auto")) == "named:6379"
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert joined_cluster(config()) is None


def test_sizes_of_a_new_cluster_are_left_out_where_one_is_joined(config, tmp_path, monkeypatch):
    own = config()
    ResolveConfiguration().on_run_start(own)
    assert {"num_gpus", "num_cpus", "_system_config"} < {*own.ray_kwargs.ray_init}
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    joining = config(run_dir=tmp_path / "joining")  # this process still holds the folder of the other run
    ResolveConfiguration().on_run_start(joining)
    left = {*joining.ray_kwargs.ray_init}
    assert not {"num_gpus", "num_cpus", "_system_config"} & left and "runtime_env" in left
    assert "joins the Ray cluster at head:6379, with that cluster's own CPUs and GPUs" in [*_heading(joining)]


@pytest.mark.parametrize("given", [None, "runs/mine"])
def test_a_job_without_an_absolute_run_dir_is_refused_with_the_line_to_write(config, given, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    if given:
        monkeypatch.setenv("RUN_DIR", given)
    with pytest.raises(SystemExit) as refusal:
        ResolveConfiguration().on_run_start(config(run_dir=None))
    said = str(refusal.value)
    came = f"RUN_DIR (of an evaluation: --out) is {given}" if given else "no RUN_DIR is given"
    assert said.startswith(f"leafe_verl refuses to start: {came}, and this is a job of Ray")
    assert f"working folder {os.getcwd()}" in said
    assert said.endswith("ray job submit --working-dir . -- env RUN_DIR=/shared/runs/mine bash recipes/leafe_mbpp.sh")


@pytest.mark.parametrize("override", [f"run_dir={RAYS_FOLDER}/runs/x", "trainer.default_local_dir=checkpoints"])
def test_a_job_whose_folder_goes_with_it_is_refused(config, override, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(SystemExit, match="Ray removes; expected an absolute folder"):
        ResolveConfiguration().on_run_start(config(override))


@pytest.mark.parametrize(
    "name, override", [("leafe", "leafe.collection.store=trees"), ("ace", f"leafe.playbook.path={RAYS_FOLDER}/a.json")]
)
def test_what_a_job_would_write_to_a_folder_that_goes_with_it_is_refused_by_its_setting(
    config, name, override, monkeypatch, tmp_path
):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    setting, _, path = override.partition("=")
    with pytest.raises(SystemExit, match=f"{setting} is {path}, and this is a job of Ray.* in {setting}$"):
        ResolveConfiguration().on_run_start(config(override, name=name))
    read = config("leafe.playbook.path=playbook.json")  # what is only read may come with the job, as task files may
    ResolveConfiguration().on_run_start(read)
    assert read.leafe.playbook.path == f"{Path.cwd()}/playbook.json"


@pytest.mark.parametrize("out", ["runs/eval", f"{RAYS_FOLDER}/runs/eval"])
def test_an_evaluation_in_a_job_needs_an_absolute_folder_too(out, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    request = EvaluationRequest(None, (), Path(out), 1, None, "episode", "cpu", ())
    with pytest.raises(ValueError, match="--out\\) is .*expected an absolute folder"):
        evaluate(request)


def test_a_job_with_an_absolute_run_dir_runs(config, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("RUN_DIR", f"{tmp_path}/shared")
    composed = config(run_dir=None)
    ResolveConfiguration().on_run_start(composed)
    assert composed.trainer.default_local_dir == f"{tmp_path}/shared/checkpoints"


def node(name, gpus=8, **changed):
    """Return a fake node, which looks at `changed` instead of those of the launcher's places."""
    return lambda places: NodeAnswer(name, gpus, look(dataclasses.replace(places, **changed)))


def asked(*nodes):
    return lambda address, places, gpus: [each(places) for each in nodes]


@pytest.fixture
def two_nodes(config, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return config("trainer.nnodes=2", "trainer.n_gpus_per_node=8", f"actor_rollout_ref.model.path={tmp_path}/model")


def test_nodes_that_see_everything_are_accepted_and_nothing_is_left_behind(two_nodes, tmp_path):
    assert find_cluster_problems(two_nodes, asked(node("a"), node("b"))) == []
    assert [*(tmp_path / "run").iterdir()] == []


def test_one_machine_that_joins_no_cluster_is_not_asked(config):
    assert find_cluster_problems(config(), lambda *given: pytest.fail("asked")) == []


def test_a_run_on_the_only_node_of_a_cluster_shares_nothing(config, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert find_cluster_problems(config(), asked(node("a", 1, folders=(str(tmp_path),)))) == []
    (problem,) = find_cluster_problems(config(), asked(node("a", 0)))
    assert "trainer.nnodes is 1 with trainer.n_gpus_per_node 1" in problem


@pytest.mark.parametrize(("units", "nodes", "needed"), [(1, 1, 6), (8, 1, 13), (8, 2, 9)])
def test_a_node_with_too_few_of_ray_s_cores_is_refused_since_verl_would_wait_for_ever(
    config, monkeypatch, units, nodes, needed
):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    given = config(f"transfer_queue.backend.SimpleStorage.num_data_storage_units={units}", f"trainer.nnodes={nodes}")

    def with_cores(cpus):
        each = NodeAnswer("a", 1, (), cpus)
        return lambda *_: [each] * nodes

    assert find_cluster_problems(given, with_cores(needed)) == []
    (problem,) = find_cluster_problems(given, with_cores(needed - 1))
    assert f"a with {needed - 1}" in problem and problem.endswith(f"ray start --num-cpus={needed}")


def test_a_cluster_with_a_run_of_verl_takes_no_other(config, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: None)
    listed = iter([[cluster.QUEUE], [cluster.QUEUE], [{"name": "other", "namespace": "x"}]])
    cluster._wait_until_free(lambda: next(listed))
    monkeypatch.setattr(cluster, "JOIN_TIMEOUT", -1)

    def ask(*_):
        cluster._wait_until_free(lambda: [cluster.QUEUE])

    (problem,) = find_cluster_problems(config(), ask)
    assert problem.startswith("another run of verl is at work in this Ray cluster")


def test_a_cluster_that_has_gone_is_said_with_what_to_do(config, monkeypatch):
    def ask(address, places, gpus):
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    (problem,) = find_cluster_problems(config(), ask)
    assert problem.startswith("the Ray cluster at 10.0.0.5:6379 does not answer (Could not find")
    assert "`ray stop`" in problem and "RAY_ADDRESS=local before the command" in problem


def test_several_nodes_without_a_cluster_are_refused_with_how_to_start_one(config):
    (problem,) = find_cluster_problems(config("trainer.nnodes=2"))
    assert "trainer.nnodes is 2, and there is no Ray cluster" in problem and "ray start --head" in problem


def test_what_a_node_does_not_share_is_named_with_the_node(two_nodes, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    other_disk, no_model = node("b", folders=(str(own),)), node("c", files=("/nowhere/config.json",))
    problems = find_cluster_problems(two_nodes, asked(node("a"), other_disk, no_model))
    assert problems == [
        f"node b: it does not see the launcher's {own}",
        "node c: it has no /nowhere/config.json",
        "expected RUN_DIR, MODEL, task files, stores and playbook on a file system that is mounted alike on every node",
    ]


def test_a_folder_that_a_node_cannot_write_is_named(two_nodes, monkeypatch, tmp_path):
    def refuse(path, *arguments, **named):
        raise PermissionError(13, "Permission denied")

    places = dataclasses.replace(SharedPlaces.read(two_nodes), folders=(str(tmp_path),))
    (tmp_path / places.token).touch()
    monkeypatch.setattr(Path, "touch", refuse)
    assert look(places) == (f"it cannot write into {tmp_path} (Permission denied)",)


def test_too_few_gpus_are_named_with_what_the_nodes_have(two_nodes):
    (problem,) = find_cluster_problems(two_nodes, asked(node("a", 8), node("b", 0)))
    assert "trainer.nnodes is 2 with trainer.n_gpus_per_node 8" in problem
    assert "(a with 8, b with 0)" in problem and "ray start --num-gpus=8" in problem
    assert find_cluster_problems(two_nodes, asked(node("a", 16))) == []


def test_nodes_that_are_still_joining_are_waited_for(monkeypatch):
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: None)
    first, second, dead = ({"Alive": alive, "Resources": {"CPU": 4.0, "GPU": 8.0}} for alive in (True, True, False))
    listed = iter([[first], [first, dead], [first, second, dead]])
    assert cluster._living_nodes(lambda: next(listed), 16) == [first, second]
    monkeypatch.setattr(cluster, "JOIN_TIMEOUT", -1)
    assert cluster._living_nodes(lambda: [first, {"Alive": True, "Resources": {}}], 16) == [
        first,
        {"Alive": True, "Resources": {}},
    ]


def test_the_outermost_folders_and_the_local_files_must_be_shared(two_nodes, tmp_path):
    two_nodes.data.val_files = ["hub:owner/name/full/test"]
    two_nodes.leafe.collection.store = f"{tmp_path}/store"
    places = SharedPlaces.read(two_nodes)
    assert places.folders == (f"{tmp_path}/run", f"{tmp_path}/store")
    assert places.files == (f"{tmp_path}/model/config.json", str(TRAIN_FILE))


def test_a_playbook_is_a_file_to_read_or_has_its_folder_written_into(two_nodes, tmp_path):
    two_nodes.leafe.playbook.path = f"{tmp_path}/books/playbook.json"
    assert f"{tmp_path}/books/playbook.json" in SharedPlaces.read(two_nodes).files
    two_nodes.trainer.v1.trainer_mode = "ace"
    places = SharedPlaces.read(two_nodes)
    assert f"{tmp_path}/books" in places.folders and f"{tmp_path}/books/playbook.json" not in places.files
