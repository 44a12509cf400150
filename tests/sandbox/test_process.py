"""What programs may do in the sandbox, and what becomes of those that do more."""

from __future__ import annotations

import os
import signal
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from leafe_verl.sandbox import CallOutcome, Limits, ProcessSandbox, RunResult
from leafe_verl.sandbox.protocol import ENDED_EARLY, KILLED, MALFORMED, OUTPUT_TOO_LARGE, TIMEOUT
from leafe_verl.sandbox.values import MAX_DEPTH

QUICK = Limits(cpu_seconds=1, wall_seconds=10)
"""Short for a program that computes without end, and long for one that waits for a busy machine."""
GRACE_SECONDS = 3
"""For starting and reaping a process on a busy machine."""


def run(code: str, *calls: str, setup: str = "", limits: Limits = QUICK) -> RunResult:
    return ProcessSandbox().run(code, setup, calls, limits)


def value(expression: str) -> object:
    (result,) = run("", expression).calls
    assert result.outcome is CallOutcome.VALUE, result
    return result.value


# --- Answers of honest programs ---


def test_calls_share_a_namespace_and_one_that_raises_hides_no_other() -> None:
    result = run("seen = []\ndef f(x):\n    seen.append(x)\n    return 6 / x", "f(2)", "f(0)", "f(3)", "seen")
    assert [call.value for call in result.calls] == [3.0, None, 2.0, [2, 0, 3]]
    assert result.calls[1].outcome is CallOutcome.RAISED
    assert result.calls[1].text == "line 4, in f: return 6 / x\nZeroDivisionError: division by zero"
    assert result.failure is None


@pytest.mark.parametrize(
    "expression",
    [
        "None",
        "True",
        "[0, -1, 2**53, -(10**5000)]",
        "(0.1, -0.0, 1e308, float('-inf'))",
        "1.5 + 2j",
        "['', 'é', chr(0xD800), chr(0xD83D) + chr(0xDE00), chr(0)]",
        "b'\\x00\\xff'",
        "[(), (1,), [], {}, set(), {1, 'a'}, frozenset({(2, 3)})]",
        "{1: [2], (3, None): {'a': b'b'}}",
    ],
)
def test_plain_values_come_back_as_they_are(expression: str) -> None:
    expected = eval(expression)
    got = value(expression)
    assert got == expected and type(got) is type(expected)


def test_nan_and_the_sign_of_zero_come_back() -> None:
    got = value("[float('nan'), -0.0]")
    assert str(got) == "[nan, -0.0]"


def test_subclasses_come_back_as_their_base() -> None:
    code = """
import collections, enum
class Text(str):
    def __str__(self): return "other"
class Many(list):
    def __iter__(self): return iter([9])
Point = collections.namedtuple("Point", "x y")
class Colour(enum.IntEnum):
    RED = 3
"""
    calls = ("Text('a')", "Many([1])", "Point(1, 2)", "Colour.RED", "collections.Counter('aab')")
    result = run(code, *calls)
    assert [call.value for call in result.calls] == ["a", [1], (1, 2), 3, {"a": 2, "b": 1}]
    assert [type(call.value) for call in result.calls] == [str, list, tuple, int, dict]


@pytest.mark.parametrize(
    ("expression", "reason"),
    [("object()", "object"), ("[1, (i for i in [])]", "generator"), ("'a' * 70_000", "large"), ("10**90_000", "large")],
)
def test_what_has_no_plain_form_is_said_by_type_and_hides_no_other_call(expression: str, reason: str) -> None:
    result = run("", expression, "1")
    assert result.calls[0].outcome is CallOutcome.UNREPRESENTABLE and reason in result.calls[0].text
    assert result.calls[1].value == 1


def test_depth_and_shared_references_are_bounded() -> None:
    code = """
def nested(depth):
    value = 0
    for _ in range(depth): value = [value]
    return value
def doubled():
    value = [1]
    for _ in range(40): value = [value, value]
    return value
"""
    fitting, deep, wide = run(code, f"nested({MAX_DEPTH})", f"nested({MAX_DEPTH + 1})", "doubled()").calls
    assert fitting.outcome is CallOutcome.VALUE
    assert deep.outcome is CallOutcome.UNREPRESENTABLE and "deep" in deep.text
    assert wide.outcome is CallOutcome.UNREPRESENTABLE and "large" in wide.text


def test_set_up_runs_after_the_code_and_its_errors_are_the_failure() -> None:
    node = "class Node:\n    def __init__(self, data): self.data = data"
    assert run(node, "root.data", setup="root = Node(1)").calls[0].value == 1
    failed = run(node, "root.data", setup="root = Nod(1)")
    assert failed.failure is not None and "NameError: name 'Nod' is not defined" in failed.failure
    assert failed.calls[0].outcome is CallOutcome.NOT_REACHED


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("def f(x):\n    return (x", "line 2: return (x\nSyntaxError: '(' was never closed"),
        ("x = 1\r\nraise KeyError('a')", "line 2: raise KeyError('a')\nKeyError: 'a'"),
        ("raise SystemExit(0)", "line 1: raise SystemExit(0)\nSystemExit: 0"),
        ("x = '\ud800'", "UnicodeEncodeError"),
        ("\0", "null bytes"),
        ("(" * 5000, "nested"),
        ("import numpy", "No module named 'numpy'"),
    ],
)
def test_code_that_cannot_be_defined_is_a_readable_failure(code: str, failure: str) -> None:
    result = run(code, "f(1)")
    assert result.failure is not None and failure in result.failure
    assert result.calls[0].outcome is CallOutcome.NOT_REACHED


def test_errors_show_the_last_lines_and_nothing_of_the_host_or_of_the_moment() -> None:
    code = "def f(n):\n    return f(n - 1) if n else g(object())\ndef g(x):\n    raise ValueError(repr(x))\n"
    text = run(code, "f(9)").calls[0].text
    assert text.splitlines() == [
        "line 2, in f: return f(n - 1) if n else g(object())",
        "line 2, in f: return f(n - 1) if n else g(object())",
        "line 4, in g: raise ValueError(repr(x))",
        "ValueError: <object object at 0x...>",
    ]
    for call in ("__import__('math').nothing", "exec('from json import nothing')", "open('missing.txt')"):
        (result,) = run("", call).calls
        assert result.outcome is CallOutcome.RAISED
        assert os.path.dirname(os.__file__) not in result.text and tempfile.gettempdir() not in result.text


def test_the_same_program_gives_the_same_answer() -> None:
    code = "import random\ndef f(): return [random.random(), list({'a', 'b', 'c', 'd', 'e', 'f'})]"
    assert run(code, "f()").calls == run(code, "f()").calls


def test_the_standard_library_and_threads_work() -> None:
    code = """
import asyncio, collections, dataclasses, datetime, decimal, hashlib, re, ssl, sqlite3, threading, zoneinfo
@dataclasses.dataclass
class Point:
    x: int
def f():
    found = []
    thread = threading.Thread(target=lambda: found.append(hashlib.sha256(b"a").hexdigest()[:4]))
    thread.start(); thread.join()
    return found, asyncio.run(asyncio.sleep(0, 7)), Point(3).x
"""
    result = run(code, "f()", limits=Limits())
    assert result.calls[0].value == (["ca97"], 7, 3), result


# --- Hostile programs ---


CONFINEMENT = run("", "1").confinement
confined = pytest.mark.skipif(
    CONFINEMENT != ("landlock", "seccomp"), reason=f"of Landlock and seccomp this kernel has {CONFINEMENT}"
)


def children() -> set[int]:
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


ENDLESS = """
import signal
for number in range(1, signal.NSIG):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
"""


WRITING = """
import os
for descriptor in range(64):
    try: os.write(descriptor, {data})
    except OSError: pass
"""


@pytest.mark.parametrize(
    ("code", "failures"),
    [
        (ENDLESS, (TIMEOUT,)),
        ("import os\nos._exit(0)", (ENDED_EARLY,)),
        ("import os\nos.closerange(0, 64)\nwhile True: pass", (KILLED,)),
        ("import sys, atexit\natexit.register(print, 'passed')\nsys.exit(0)", ("SystemExit: 0",)),
        ("import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", (KILLED, TIMEOUT, "MemoryError")),
        ("x = []\nwhile True: x.append(bytes(2**26))", ("MemoryError",)),
        (WRITING.format(data="b'passed\\n'"), (MALFORMED,)),
        (WRITING.format(data="b'[' * 60_000 + b'\\n'"), (MALFORMED,)),
        ("while True:" + textwrap.indent(WRITING.format(data="b'x' * 4096"), " "), (OUTPUT_TOO_LARGE, MALFORMED)),
    ],
)  # fmt: skip
def test_programs_that_do_not_behave_end_within_the_limit_as_a_failure(code: str, failures: tuple[str, ...]) -> None:
    before = children()
    start = time.monotonic()
    result = run(code, "1")
    assert time.monotonic() - start < QUICK.wall_seconds + GRACE_SECONDS
    assert result.failure is not None and any(failure in result.failure for failure in failures), result.failure
    assert result.calls[0].outcome is CallOutcome.NOT_REACHED
    assert children() <= before


@pytest.mark.parametrize("code", ["import time\ntime.sleep(60)", ENDLESS])
def test_the_clock_is_bounded_also_where_processor_time_is_not(code: str) -> None:
    limits = Limits(cpu_seconds=60, wall_seconds=2)
    start = time.monotonic()
    assert run(code, "1", limits=limits).failure == TIMEOUT
    assert time.monotonic() - start < limits.wall_seconds + GRACE_SECONDS


def test_a_call_that_hangs_hides_none_before_it() -> None:
    result = run("def f(x):\n    while x: pass\n    return x", "f(0)", "f(1)", "f(0)")
    assert [call.outcome.value for call in result.calls] == ["value", "not reached", "not reached"]
    assert result.failure == TIMEOUT


def test_what_is_printed_is_dropped_whatever_its_length() -> None:
    code = "import sys\ndef f():\n    for _ in range(3000): print('x' * 10_000); print('y' * 999, file=sys.stderr)\n"
    code += "    return 1"
    assert run(code, "f()").calls[0].value == 1


DENIED = {
    "fork": "os.fork()",
    "spawn": "subprocess.run(['/bin/true'])",
    "multiprocessing": "multiprocessing.Process(target=print).start()",
    "exec": "os.execv(sys.executable, ['python'])",
    "kill the judge": "os.kill(os.getppid(), 0)",
    "kill everything": "os.kill(-1, 0)",
    "leave the session": "os.setsid()",
    "slow the judge": "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "raise a limit": "resource.setrlimit(resource.RLIMIT_CPU, (9, 9))",
    "limit the judge": "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (9, 9))",
    "socket": "socket.socket()",
    "password file": "open('/etc/passwd').read()",
    "environment of the judge": "open(f'/proc/{os.getppid()}/environ').read()",
    "memory of the judge": "open(f'/proc/{os.getppid()}/mem', 'rb')",
    "package": "open(PACKAGE).read()",
    "list folders": "os.listdir('/')",
    "write": "open('file', 'w')",
    "write outside": "open('/tmp/sandbox_escape', 'w')",
    "shared memory": "open('/dev/shm/sandbox_escape', 'w')",
    "delete": "os.unlink(PACKAGE)",
    "rename": "os.rename(PACKAGE, PACKAGE + 'x')",
    "symbolic link": "os.symlink('/etc', 'link')",
    "folder": "os.mkdir('folder')",
    "mode": "os.chmod(PACKAGE, 0o777)",
}


@confined
def test_rights_that_no_solution_needs_are_gone() -> None:
    package = Path(__file__).parents[2] / "leafe_verl" / "__init__.py"
    imports = "import multiprocessing, os, resource, socket, subprocess, sys"
    result = run(f"{imports}\nPACKAGE = {str(package)!r}", *DENIED.values())
    assert result.failure is None
    got = {name: call.text.splitlines()[-1] for name, call in zip(DENIED, result.calls, strict=True) if call.text}
    refusals = ("PermissionError", "not allowed to raise maximum limit")
    allowed = [name for name in DENIED if not any(refusal in got.get(name, "") for refusal in refusals)]
    assert allowed == []
    assert package.is_file()


def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_SECRET", "key")
    (result,) = run("import os", "sorted(os.environ)").calls
    # LC_CTYPE is set by the interpreter itself.
    assert set(result.value) <= {"PYTHONHASHSEED", "LC_CTYPE"}


FORK_BOMB = """
import os, time
made = []
for _ in range(20):
    try:
        if os.fork() == 0:
            os.setsid()
            time.sleep(30)
        made.append(1)
    except OSError:
        pass
"""


@confined
def test_a_fork_bomb_and_a_daemon_come_to_nothing() -> None:
    before = children()
    result = run(FORK_BOMB, "len(made)")
    assert result.calls[0].value == 0
    assert children() <= before


def test_thread_bombs_are_bounded_and_end_with_the_run() -> None:
    code = """
import threading, time
made = 0
try:
    for _ in range(10_000):
        threading.Thread(target=time.sleep, args=(30,)).start()
        made += 1
except (RuntimeError, MemoryError): pass
"""
    before = children()
    result = run(code, "made")
    assert result.failure is not None or result.calls[0].value < 1000
    assert children() <= before


def test_nothing_is_left_when_a_run_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("leafe_verl.sandbox.process._read", interrupt)
    before, folders = children(), set(Path(tempfile.gettempdir()).glob("sandbox-*"))
    with pytest.raises(KeyboardInterrupt):
        run("while True: pass", "1")
    assert children() <= before
    assert set(Path(tempfile.gettempdir()).glob("sandbox-*")) <= folders


def test_descriptors_are_closed() -> None:
    run("", "1")
    before = len(os.listdir("/proc/self/fd"))
    for code in ("", "import os\nos._exit(0)", "def"):
        run(code, "1")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_sandbox_that_cannot_start_is_an_error_not_a_failure_of_the_code() -> None:
    with pytest.raises(RuntimeError, match="did not start"):
        run("", "1", limits=Limits(memory_bytes=2**20))


def test_no_confinement_is_refused_unless_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leafe_verl.sandbox.process._program", _without_confinement)
    with pytest.raises(RuntimeError, match="allow_unconfined=true"):
        run("", "1")
    result = ProcessSandbox(allow_unconfined=True).run("", "", ["1"], QUICK)
    assert result.calls[0].value == 1 and result.confinement == ()


def _without_confinement(name: str) -> str:
    if name == "confinement.py":
        return "def confine(): return []"
    return (Path(__file__).parents[2] / "leafe_verl" / "sandbox" / name).read_text(encoding="utf-8")


def test_death_by_a_signal_names_it() -> None:
    result = run("import ctypes\nctypes.string_at(0)", "1")
    assert result.failure == f"{KILLED} ({signal.SIGSEGV.name})"
