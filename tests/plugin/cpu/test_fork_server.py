"""Ray workers that are forked by the fork server run as they would in an interpreter of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from leafe_verl.plugin.cpu import fork_server

SCRIPT = """
import json, os, random, subprocess, sys
seen = {
    "arguments": sys.argv[1:], "name": __name__, "folder": os.getcwd(), "variable": os.environ.get("VARIABLE"),
    "imported": "leafe_verl.core" in sys.modules, "pid": os.getpid(), "parent": os.getppid(),
    "group": os.getpgrp(), "random": random.random(), "child": subprocess.run(["false"]).returncode,
}
with open("seen.json.part", "w") as file:
    json.dump(seen, file)
os.rename("seen.json.part", "seen.json")
"""
CLIENT = """
import sys
from leafe_verl.plugin.cpu import fork_server
fork_server.MODULES = ("leafe_verl.core", "no_such_module")
fork_server.main(sys.argv[1:])
"""


@pytest.fixture
def worker(tmp_path):
    """Starts a worker as a raylet does and returns its process; `cluster` None: no worker of Ray."""
    processes = []

    def start(name, *arguments, cluster="sockets", **variables):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "script.py").write_text(SCRIPT)
        (tmp_path / "sockets").mkdir(exist_ok=True)
        raylet = [f"--raylet-name={tmp_path / cluster}/raylet"] if cluster else []
        command = [sys.executable, "-c", CLIENT, "script.py", *raylet, *arguments]
        processes.append(subprocess.Popen(command, cwd=folder, env={**os.environ, "RAY_JOB_ID": "01", **variables}))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def seen(tmp_path, name):
    path = tmp_path / name / "seen.json"
    for _ in range(6000):
        if path.exists():
            return json.loads(path.read_text())
        time.sleep(0.01)
    raise AssertionError(f"{name} did not run")


def test_the_first_worker_becomes_the_fork_server_and_each_is_a_fork_of_it(worker, tmp_path):
    first = worker("one", "--a", "b c", VARIABLE="x")
    one = seen(tmp_path, "one")
    assert worker("two", VARIABLE="y").wait(60) == 0, "the client of a fork server is done at once"
    two = seen(tmp_path, "two")
    assert one["parent"] == two["parent"] == first.pid
    assert one["imported"] and two["imported"]
    assert (one["variable"], two["variable"]) == ("x", "y")
    assert one["arguments"][1:] == ["--a", "b c"] and one["folder"] == str(tmp_path / "one")
    assert one["name"] == "__main__"
    assert one["child"] == 1, "children's exit statuses are known again"
    assert one["random"] != two["random"]
    assert (one["group"], two["group"]) == (one["pid"], two["pid"]), "a worker that dies takes none with it"


def test_another_job_has_a_fork_server_of_its_own(worker, tmp_path):
    first, second = worker("one"), worker("two", RAY_JOB_ID="02")
    assert seen(tmp_path, "one")["parent"] == first.pid
    assert seen(tmp_path, "two")["parent"] == second.pid


def test_workers_that_are_started_at_once_share_one(worker, tmp_path):
    processes = [worker(f"w{number}") for number in range(4)]
    parents = {seen(tmp_path, f"w{number}")["parent"] for number in range(4)}
    assert len(parents) == 1 and parents <= {process.pid for process in processes}


@pytest.mark.parametrize("cluster", [None, "no-such-folder"])
def test_without_a_fork_server_a_plain_interpreter_runs_the_script(cluster, worker, tmp_path):
    process = worker("one", "x", cluster=cluster)
    one = seen(tmp_path, "one")
    assert one["pid"] == process.pid and one["arguments"][-1] == "x" and not one["imported"]


def test_a_dead_fork_server_is_not_waited_for(worker, tmp_path):
    first = worker("one")
    seen(tmp_path, "one")
    first.kill()
    first.wait()
    process = worker("two")
    assert seen(tmp_path, "two")["pid"] == process.pid


def test_the_fork_server_ends_with_its_raylet(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    raylet = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CLIENT!r}, *sys.argv[1:]])"
    command = [sys.executable, "-c", raylet, "script.py", f"--raylet-name={tmp_path}/raylet"]
    process = subprocess.Popen(command, cwd=tmp_path)
    fork_server_pid = seen(tmp_path, ".")["parent"]
    process.kill()
    process.wait()
    with suppress(ProcessLookupError):
        for _ in range(6000):
            os.kill(fork_server_pid, 0)
            time.sleep(0.01)
        os.kill(fork_server_pid, signal.SIGKILL)
        pytest.fail("the fork server outlived its raylet")


def test_an_orphan_of_a_raylet_that_has_ended_runs_nothing(worker, tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert worker("one", RAY_RAYLET_PID=str(ended.pid)).wait(60) == 0
    assert not (tmp_path / "one" / "seen.json").exists()


def test_a_runtime_environment_keeps_its_own_executable():
    assert fork_server.with_fork_server({"env_vars": {"A": "1"}})["env_vars"] == {"A": "1"}
    assert fork_server.with_fork_server({"py_executable": "mine"})["py_executable"] == "mine"
    for given in (None, {"py_executable": None}):
        assert (
            fork_server.with_fork_server(given)["py_executable"]
            == f"{sys.executable} -m leafe_verl.plugin.cpu.fork_server"
        )
