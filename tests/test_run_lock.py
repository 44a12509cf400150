"""One process at a time runs in a folder, and an unfinished run is found again."""

import os
import subprocess
import sys

import pytest

from leafe_verl import activity
from leafe_verl.activity import ENDED, FAILED, ActivityFile
from leafe_verl.run_lock import FILE, find_unfinished, hold

HOLDER = """
import sys, time
from pathlib import Path
from leafe_verl.run_lock import hold
print(hold(Path(sys.argv[1])), flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Return a function that starts a process which holds a new run's folder, and the folder."""
    started = []

    def start(name: str):
        folder = tmp_path / name
        (folder / "checkpoints").mkdir(parents=True)
        ActivityFile(folder).begin("collecting", step=1)
        command = [sys.executable, "-c", HOLDER, str(folder)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "True\n"
        return started[-1], folder

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_folder_is_held_until_its_process_is_killed(holder):
    process, folder = holder("run")
    new = folder.with_name("new")
    assert not hold(folder) and find_unfinished(new) is None
    process.kill()
    process.wait()
    assert find_unfinished(new) == folder and find_unfinished(folder) is None
    assert hold(folder)


@pytest.mark.parametrize(("how", "found"), [(ENDED, False), (FAILED, True)])
def test_a_run_that_ended_well_is_not_gone_on_with(tmp_path, how, found):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / FILE).touch()
    ActivityFile(folder).end(how)
    assert find_unfinished(tmp_path / "new") == (folder if found else None)


def test_a_run_that_was_refused_is_not_gone_on_with(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / FILE).touch()
    ActivityFile(folder).end(FAILED)
    assert find_unfinished(tmp_path / "new") is None


def test_the_latest_run_decides(tmp_path):
    for number, how in enumerate((FAILED, ENDED)):
        folder = tmp_path / how
        (folder / "checkpoints").mkdir(parents=True)
        (folder / FILE).touch()
        ActivityFile(folder).end(how)
        os.utime(folder / activity.FILE, (number, number))
    assert find_unfinished(tmp_path / "new") is None


def test_a_folder_without_runs_has_none(tmp_path):
    assert find_unfinished(tmp_path / "new") is find_unfinished(tmp_path / "missing" / "new") is None
