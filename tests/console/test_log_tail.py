"""Our warnings, from the logger of a process to the terminal of the launcher."""

import io
import logging

import pytest

from leafe_verl.console.log_tail import SHOWN, LogTail
from leafe_verl.console.marks import MarkingFormatter, mark_warnings


@pytest.fixture
def root():
    """The root logger with one stream of its own."""
    root, stream = logging.getLogger(), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s:%(message)s"))
    others = root.handlers[:]
    root.addHandler(handler)
    yield stream
    root.removeHandler(handler)
    assert root.handlers == others


def test_ours_are_marked_and_others_stay_as_they_were(root):
    mark_warnings()
    mark_warnings()
    logging.getLogger("leafe_verl.plugin.x").warning("step %d:\n  no example", 3)
    logging.getLogger("verl.x").warning("a warning of verl")
    logging.getLogger("leafe_verl_other").warning("a warning of another package")
    assert root.getvalue().splitlines() == [
        "leafe_verl: WARNING: step 3: no example",
        "WARNING:a warning of verl",
        "WARNING:a warning of another package",
    ]


def test_handlers_of_other_kinds_are_left_alone(caplog, root):
    mark_warnings()
    assert not isinstance(caplog.handler.formatter, MarkingFormatter)


def test_an_exception_follows_its_line(root):
    mark_warnings()
    try:
        raise ValueError("a reason")
    except ValueError:
        logging.getLogger("leafe_verl").exception("failed")
    assert root.getvalue().startswith("leafe_verl: ERROR: failed\nTraceback")


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("leafe_verl: WARNING: of an earlier launch\n")
    return path


def append(log, text):
    with log.open("a") as file:
        file.write(text)


def test_only_new_and_whole_lines_are_read(log):
    tail = LogTail(log, log.stat().st_size)
    append(log, "noise\n\x1b[36m(TaskRunnerV1 pid=7)\x1b[0m leafe_verl: WARNING: a reason\x1b[32m\x1b[0m\n")
    append(log, "leafe_verl: ERR")
    assert [*tail.new_warnings()] == ["a reason"]
    append(log, "OR: server 1 died\n")
    assert [*tail.new_warnings()] == ["server 1 died"]
    assert [*tail.new_warnings()] == []


def test_one_of_each_kind_is_shown(log):
    tail = LogTail(log, 0)
    for number in range(5):
        append(log, f"leafe_verl: WARNING: task '{number}': unscored attempt, code {number}\n")
    assert [*tail.new_warnings()] == ["of an earlier launch", "task '0': unscored attempt, code 0"]
    assert tail.hidden == 4


def test_a_flood_is_cut(log):
    tail = LogTail(log, log.stat().st_size)
    append(log, "".join(f"leafe_verl: WARNING: {'x' * number}\n" for number in range(1, 100)))
    assert len([*tail.new_warnings()]) == SHOWN and tail.hidden == 99 - SHOWN


def test_bytes_that_are_no_text_reach_no_terminal(log):
    tail = LogTail(log, log.stat().st_size)
    with log.open("ab") as file:
        file.write(b"leafe_verl: WARNING: \xff\x07bell\n")
    (line,) = tail.new_warnings()
    assert line.isprintable() and "bell" in line
