"""What becomes of a child process when its parent is interrupted or ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import subprocess, sys
from leafe_verl.processes import end_with_parent, leaving_ctrl_c_to_the_child

with leaving_ctrl_c_to_the_child():
    done = subprocess.run([sys.executable, "-c", sys.argv[1], sys.argv[2]], preexec_fn=end_with_parent)
print("the child ended with", done.returncode)
"""
CHILD = """
import pathlib, signal, sys, time

folder = pathlib.Path(sys.argv[1])

def end(number, frame):
    time.sleep(0.6)  # what subprocess.run leaves a child is 0.25 s
    (folder / "ended").write_text(str(number))
    sys.exit(3)

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, end)
(folder / "ready").touch()
time.sleep(60)
"""


def wait_for(path: Path) -> Path:
    end = time.monotonic() + 30
    while not path.exists() or (path.name == "ended" and not path.read_text()):
        assert time.monotonic() < end, path
        time.sleep(0.02)
    return path


@pytest.fixture
def parent(tmp_path):
    command = [sys.executable, "-c", PARENT, CHILD, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(tmp_path / "ready")
    yield process
    process.kill()
    process.wait()


def test_ctrl_c_of_a_terminal_leaves_the_child_its_time_to_end(parent, tmp_path):
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal sends it
    said, _ = parent.communicate(timeout=30)
    assert said == "the child ended with 3\n" and (tmp_path / "ended").read_text() == str(int(signal.SIGINT))


def test_a_child_ends_with_its_parent(parent, tmp_path):
    parent.terminate()
    parent.wait(timeout=30)
    assert wait_for(tmp_path / "ended").read_text() == str(int(signal.SIGTERM))
