"""What reaches the terminal and what goes to the log, however a run ends."""

import json
import signal
import subprocess
import sys

import pytest

from console.programs import OPENED, environment, run, run_on_terminal
from leafe_verl.activity import read_activity

NOISE = ("noise of Python", "noise of a child", "an error of a child")
METRICS = {0: {"val-core/mbpp/pass@1": 0.25}, 1: {"leafe/trees": 2, "actor/loss": 1.0, "val-core/mbpp/pass@1": 0.5}}


def log_of(folder):
    return (folder / "log.txt").read_text()


def test_noise_goes_to_the_log_and_lines_go_to_the_terminal(tmp_path):
    done = run("console.say(['a line']); console.succeed(trained=False)", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if "starting" not in line] == ["a heading", "a line"]
    assert all(noise in log_of(tmp_path) for noise in NOISE)
    assert "\x1b" not in done.stdout
    assert read_activity(tmp_path).name == "ended"


def test_a_good_end_says_what_the_run_came_to_and_what_to_do_next(tmp_path):
    lines = [json.dumps({"step": step, "data": data}) for step, data in METRICS.items()]
    (tmp_path / "metrics-1.jsonl").write_text("\n".join(lines) + "\n")
    outcomes = [{"0": [1, 0, 0, 0]}, {"0": [1, 1, 0, 0]}]
    (tmp_path / "validations.jsonl").write_text(
        "".join(json.dumps({"step": step, "outcomes": each}) + "\n" for step, each in enumerate(outcomes))
    )
    (tmp_path / "checkpoints" / "global_step_1").mkdir(parents=True)
    text = run("console.succeed(trained=True)", tmp_path).stdout
    assert (tmp_path / "report.html").is_file()
    for expected in (
        "mbpp Pass@1  25.0 %  50.0 %   +25.0",
        "Pass@1 rose by 25.0 points, from 25.0 to 50.0 %",
        "report: report.html",
        "log: log.txt",
        "next:",
        "evaluate --model checkpoints/global_step_1 --attempts 32 --out evaluation   #",
        "recipes/leafe_mbpp.sh leafe.seed=1 trainer.total_training_steps=2   # train on, up to step 2",
    ):
        assert expected in text


def test_an_error_ends_with_its_cause_and_the_log(tmp_path):
    code = """
try:
    raise ValueError("the cause")
except ValueError as error:
    console.fail(error)
    raise
"""
    done = run(code, tmp_path)
    assert done.returncode == 1
    assert "ValueError: the cause" in done.stdout and "log: log.txt" in done.stdout
    assert "leafe_mbpp.sh leafe.seed=1" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr and "Traceback" in log_of(tmp_path)
    assert done.stdout.count("the cause") == 1
    assert read_activity(tmp_path).name == "failed"


def test_an_error_that_no_callback_hears_of_is_said_as_well(tmp_path):
    done = run("raise RuntimeError('unheard')", tmp_path)
    assert done.returncode == 1 and "RuntimeError: unheard" in done.stdout


def test_an_interrupt_says_how_to_go_on(tmp_path):
    # A shell starts what runs in the background, maybe these tests, with interrupts ignored.
    handled = "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler)"
    done = run(f"{handled}; os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", tmp_path)
    assert done.returncode == -signal.SIGINT
    assert "The run was stopped after" in done.stdout and "leafe_mbpp.sh" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert read_activity(tmp_path).name == "stopped"


def test_an_exit_without_an_end_counts_as_stopped(tmp_path):
    done = run("raise SystemExit(15)", tmp_path)  # what Ray makes of SIGTERM
    assert done.returncode == 15 and "The run was stopped" in done.stdout


def test_a_refusal_reaches_the_terminal(tmp_path):
    done = run("console.release(); raise SystemExit('refused: a reason')", tmp_path)
    assert done.returncode == 1 and done.stderr == "refused: a reason\n"
    assert "stopped" not in done.stdout


def test_a_resumed_run_appends_to_the_log(tmp_path):
    for number in (1, 2):
        run(f"print('launch {number}'); console.succeed(trained=False)", tmp_path)
    assert log_of(tmp_path).index("launch 1") < log_of(tmp_path).index("launch 2")
    assert log_of(tmp_path).count("\n== ") == 2


@pytest.mark.parametrize("verbose, shown", [("1", True), ("", False), ("0", False)])
def test_verbose_shows_everything_and_writes_no_log(tmp_path, verbose, shown):
    done = run("console.succeed(trained=False)", tmp_path, VERBOSE=verbose)
    assert all((noise in done.stdout + done.stderr) is shown for noise in NOISE)
    assert (tmp_path / "log.txt").exists() is not shown


def test_a_log_that_cannot_be_written_is_said_and_the_run_goes_on(tmp_path):
    (tmp_path / "log.txt").symlink_to("/dev/full")
    done = run("console.succeed(trained=False); print('still here')", tmp_path)
    assert done.returncode == 0
    assert "log.txt cannot be written ([Errno 28] No space left on device)" in done.stdout
    assert all(noise in done.stdout + done.stderr for noise in (*NOISE, "a heading", "still here"))


def test_a_disk_that_fills_up_is_said_and_the_run_goes_on(tmp_path):
    code = """
import shutil, time
from leafe_verl.console import display
shutil.disk_usage = lambda folder: type("Usage", (), {"free": 0})
deadline = time.monotonic() + 20
while console._capture._saved and time.monotonic() < deadline: time.sleep(0.05)
print("after that"); console.succeed(trained=False)
"""
    done = run(code, tmp_path)
    assert done.stdout.count("is full, so everything is printed here from now on") == 1
    assert "after that" in done.stdout and "after that" not in log_of(tmp_path)


def test_our_warnings_come_through(tmp_path):
    code = """
print("(TaskRunner pid=1) leafe_verl: WARNING: step 1: 16 trees gave no SFT example")
print("(TaskRunner pid=1) leafe_verl: WARNING: step 2: 16 trees gave no SFT example")
console.succeed(trained=False)
"""
    lines = run(code, tmp_path).stdout.splitlines()
    assert [line for line in lines if "warning" in line] == [
        "warning: step 1: 16 trees gave no SFT example",
        "1 more warnings are in the log",
    ]


def test_a_closed_terminal_does_not_end_the_run(tmp_path):
    code = "os.close(console._display._console.file.fileno()); console.succeed(trained=False); raise SystemExit(3)"
    assert run(code, tmp_path).returncode == 3


def test_a_reader_that_ends_first_takes_neither_the_log_nor_the_run_along(tmp_path):
    code = """
deadline = __import__("time").monotonic() + 20
while not Path("gone").exists(): assert __import__("time").monotonic() < deadline
console.say(["into the pipe"]); print("still logged"); console.succeed(trained=False); raise SystemExit(3)
"""
    command = [sys.executable, "-c", OPENED + code, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path, env=environment()) as process:
        process.stdout.readline()
        process.stdout.close()
        (tmp_path / "gone").touch()
        assert process.wait(60) == 3
    assert "still logged" in log_of(tmp_path)


def test_a_stopped_evaluation_gives_no_command_of_its_launcher(tmp_path):
    evaluating = 'console._choices = dataclasses.replace(choices, config="evaluate"); console.stop()'
    assert "main_ppo" not in run(evaluating, tmp_path).stdout


def test_the_engine_s_own_error_is_found_in_the_log(tmp_path):
    said = "(EngineCore pid=1) ERROR 11-30 10:00:00 [core.py:866] ValueError: No available memory for the cache"
    code = (
        f"print({said!r}); console.fail(RuntimeError('Engine core initialization failed. See root cause above. {{}}'))"
    )
    lines = run(code, tmp_path).stdout.splitlines()
    assert "  the engine said: ValueError: No available memory for the cache" in lines


def test_a_terminal_is_live_and_free_of_noise(tmp_path):
    written = run_on_terminal("import time; time.sleep(2.5); console.succeed(trained=False)", tmp_path)
    assert "a heading" in written and "starting" in written
    assert "\x1b[?25l" in written and written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")  # the cursor is back
    assert not any(noise in written for noise in NOISE)
    assert all(noise in log_of(tmp_path) for noise in NOISE)


def test_a_dumb_terminal_gets_plain_lines(tmp_path):
    done = run("console.succeed(trained=False)", tmp_path, TERM="dumb")
    assert "\x1b" not in done.stdout
