"""The scripts for clusters, with stand-ins for Slurm, Ray and Python: the commands that they issue."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[1] / "recipes"
STUBS = {
    "scontrol": """
        [ "$*" = "show hostnames a[1-3]" ] && printf '%s\\n' a1 a2 a3""",
    # Runs the command here, as the node that it was meant for.
    "srun": """
        echo "srun $*" >> "$LOG"
        while [[ $1 == --* ]]; do case $1 in --nodelist=*) export NODE=${1#*=} ;; esac; shift; done
        exec "$@" """,
    "hostname": """
        case $1 in
            --ip-address) echo "fe80::1 127.0.1.1" ;;
            --all-ip-addresses) echo "10.0.0.${NODE#a} 192.168.0.1" ;;
        esac""",
    "rm": """
        case "$*" in *ray_current_cluster) ;; *) exec /bin/rm "$@" ;; esac""",
    "ray": """
        echo "ray@${NODE:-here} $*" >> "$LOG"
        case $1 in
            start) [ -z "${BROKEN:-}" ] || exit 1
                touch "$LOG.$NODE"; echo $$ >> "$LOG.pids"; exec sleep 60 ;;
            status) [ -e "$LOG.a1" ] ;;
        esac""",
    # The package is there. verl's launcher ends when the workers have joined, 10 s later at most.
    "python": """
        case "$*" in *main_ppo*)
            for _ in {1..100}; do [ -e "$LOG.a2" ] && [ -e "$LOG.a3" ] && break; sleep 0.1; done
            echo "python RAY_ADDRESS=$RAY_ADDRESS RUN_DIR=$RUN_DIR $*" >> "$LOG"; exit ${STATUS:-0} ;;
        esac""",
}
SRUN = "srun --overlap --cpu-bind=none --nodes=1 --ntasks=1"
LAUNCH = "-m verl.trainer.main_ppo --config-path pkg://leafe_verl.plugin.config --config-name leafe environment=mbpp"


@pytest.fixture
def script(tmp_path):
    """Return a function that runs a script of recipes/cluster and returns its end and the commands that it issued."""
    stubs, log = tmp_path / "stubs", tmp_path / "log"
    stubs.mkdir()
    for name, text in STUBS.items():
        (stubs / name).write_text(f"#!/bin/bash\n{text}\n")
        (stubs / name).chmod(0o755)
    # As Slurm does it, which runs a copy of the script from elsewhere.
    shutil.copytree(RECIPES / "cluster", tmp_path / "spool")
    variables = {"LOG": str(log), "PATH": f"{stubs}:{os.environ['PATH']}"}
    slurm = {"SLURM_JOB_ID": "1234567", "SLURM_JOB_NODELIST": "a[1-3]", "SLURM_GPUS_ON_NODE": "8"}
    unset = ("RUN_DIR", "MODEL", "TRAIN_FILES", "VAL_FILES", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "GPUS", "NODES")

    def run(name: str, *arguments: str, **given: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        kept = {key: value for key, value in os.environ.items() if key not in unset}
        command = ["bash", str(tmp_path / "spool" / name), *arguments]
        environment = {**kept, **variables, **slurm, **given}
        done = subprocess.run(command, cwd=RECIPES.parent, env=environment, capture_output=True, text=True, timeout=60)
        return done, log.read_text().splitlines() if log.exists() else []

    return run


def running(log: Path) -> list[int]:
    pids = [int(line) for line in Path(f"{log}.pids").read_text().split()]
    return [
        pid
        for pid in pids
        if Path(f"/proc/{pid}/cmdline").exists() and b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def test_slurm_starts_a_head_and_workers_and_then_the_recipe(script, tmp_path):
    done, said = script("slurm.sh", "recipes/leafe_mbpp.sh", "trainer.total_epochs=3", RUN_DIR="/shared/runs/x")
    assert done.returncode == 0, done.stderr
    address = "10.0.0.1:24567"
    assert [line for line in said if "nodelist=a1" in line] == [
        f"{SRUN} --nodelist=a1 bash -c hostname --ip-address; hostname --all-ip-addresses",
        f"{SRUN} --nodelist=a1 ray start --head --node-ip-address=10.0.0.1 --port=24567 --num-gpus=8 --block",
        f"{SRUN} --nodelist=a1 rm -f /tmp/ray/ray_current_cluster",
    ]
    assert said[-2:] == [f"{SRUN} --nodelist={node} rm -f /tmp/ray/ray_current_cluster" for node in ("a2", "a3")]
    for node in ("a2", "a3"):
        assert f"{SRUN} --nodelist={node} ray start --address={address} --num-gpus=8 --block" in said
    assert f"ray@here status --address {address}" in said
    launched = (
        f"python RAY_ADDRESS={address} RUN_DIR=/shared/runs/x {LAUNCH} trainer.nnodes=3 trainer.n_gpus_per_node=8"
    )
    assert f"{launched} trainer.total_epochs=3" in said
    assert running(tmp_path / "log") == []


def test_slurm_ends_with_the_status_of_the_recipe(script, tmp_path):
    done, _ = script("slurm.sh", "recipes/leafe_mbpp.sh", RUN_DIR="/shared/x", STATUS="3", GPUS="1", RAY_PORT="7000")
    assert done.returncode == 3
    assert running(tmp_path / "log") == []


def test_slurm_stops_where_the_head_does_not_start(script):
    done, said = script("slurm.sh", "recipes/leafe_mbpp.sh", RUN_DIR="/shared/runs/x", BROKEN="1")
    assert done.returncode == 1 and "Ray's head did not start on a1" in done.stderr
    assert not any("main_ppo" in line or "nodelist=a2 ray start" in line for line in said)


@pytest.mark.parametrize("name", ["slurm.sh", "ray_job.sh"])
@pytest.mark.parametrize("given", [{}, {"RUN_DIR": "runs/mine"}])
def test_a_run_dir_that_is_missing_or_relative_is_refused(script, name, given):
    done, said = script(name, "recipes/leafe_mbpp.sh", **given)
    assert done.returncode == 2 and said == []
    assert f"RUN_DIR is {given.get('RUN_DIR', 'missing')}; expected an absolute folder" in done.stderr


def test_a_job_is_submitted_with_its_variables_in_the_command(script, tmp_path):
    given = {"RUN_DIR": "/shared/runs/x", "MODEL": "owner/name", "NODES": "4", "LEAFE_CPU_DTYPE": "float32"}
    done, said = script("ray_job.sh", "recipes/grpo_mbpp.sh", "trainer.total_epochs=3", **given)
    assert done.returncode == 0, done.stderr
    assert said == [
        "ray@here job submit --address http://127.0.0.1:8265 --working-dir . -- "
        "env RUN_DIR=/shared/runs/x MODEL=owner/name LEAFE_CPU_DTYPE=float32 "
        f"LEAFE_SUBMIT=NODES=4 GPUS=8 bash {tmp_path}/spool/ray_job.sh recipes/grpo_mbpp.sh "
        "bash recipes/grpo_mbpp.sh trainer.nnodes=4 trainer.n_gpus_per_node=8 trainer.total_epochs=3"
    ]
