"""The cause of a failed run, under what Ray wraps around it."""

import pytest

from leafe_verl.console.failure import LINE_CHARACTERS, LINES, describe_failure, find_chain

ray = pytest.importorskip("ray", reason="ray is not installed")
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, RayTaskError

TRACEBACK = """Traceback (most recent call last):
  File "/site-packages/verl/trainer/ppo/v1/trainer_base.py", line 476, in fit
    batch = self.step(metrics, self.timing_raw)
  File "/work/leafe_verl/plugin/rollout/replay_buffer.py", line 20, in sample
    raise _no_result_error(batch_size, what)
"""


def wrapped(cause, function="run"):
    text = f"ray::TaskRunnerV1.{function}() (pid=1, ip=10.0.0.1)\n{TRACEBACK}{type(cause).__name__}: {cause}\n"
    return RayTaskError(function, text, cause, proctitle="ray::x", pid=1, ip="10.0.0.1")


def lines(error):
    return [*describe_failure(error)]


def test_a_plain_error_is_its_own_cause():
    try:
        raise ValueError("a reason")
    except ValueError as error:
        first, place = lines(error)
    assert first == "ValueError: a reason"
    assert place.startswith(f"  raised in {__file__}, line ") and place.endswith("test_a_plain_error_is_its_own_cause")


def test_nested_task_errors_lead_to_the_root():
    inner = wrapped(RuntimeError("none of 16 tasks gave a scored attempt"), "step").as_instanceof_cause()
    outer = wrapped(inner).as_instanceof_cause()
    assert lines(outer) == [
        "RuntimeError: none of 16 tasks gave a scored attempt",
        "  raised in /work/leafe_verl/plugin/rollout/replay_buffer.py, line 20, in sample",
    ]


def test_a_cause_that_could_not_be_pickled_is_found_in_its_text():
    text = f"Exception my.OddError isn't serializable: no.\nOriginal exception details:\n{TRACEBACK}my.OddError: odd\n"
    assert lines(wrapped(RayError(text)))[0] == "my.OddError: odd"


def test_an_actor_that_fails_as_it_is_made_ends_with_its_error():
    error = ActorDiedError(wrapped(ImportError("No module named 'flash_attn'"), "__init__"))
    found = lines(error)
    assert found[0] == "ImportError: No module named 'flash_attn'"
    assert "replay_buffer.py, line 20" in found[1]


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("Task was killed due to the node running low on memory."),
        RuntimeError("Worker unexpectedly exits. (1) The process is killed by SIGKILL by OOM killer."),
    ],
)
def test_a_killed_process_comes_with_what_helps(error):
    assert lines(error)[-1].startswith("  A process was killed, most often for want of memory.")


def test_a_full_gpu_is_no_killed_process():
    hint = lines(RuntimeError("CUDA out of memory. Tried to allocate 2.32 GiB."))[-1]
    assert "killed" not in hint and "ppo_max_token_len_per_gpu" in hint


def test_a_cause_is_told_by_raise_from():
    try:
        try:
            raise OSError("the disk is full")
        except OSError as error:
            raise RuntimeError("could not save") from error
    except RuntimeError as error:
        assert lines(error)[0] == "OSError: the disk is full"


def test_a_long_message_is_cut_and_control_characters_are_replaced():
    found = lines(ValueError("\x1b[31m" + "a line\n" * 100))
    assert len(found) == LINES + 1 and found[LINES] == "..." and "\x1b" not in found[0]
    (line,) = lines(ValueError("x" * 10_000))
    assert len(line) == LINE_CHARACTERS + len(" ...")


def test_a_ring_of_causes_ends():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert find_chain(first) == [first, second]
