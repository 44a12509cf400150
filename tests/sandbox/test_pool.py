"""What programs may do in the sandbox, and what becomes of those that do more."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from leafe_verl.sandbox import (
    CallOutcome,
    Limits,
    ProgramResult,
    RunResult,
    SandboxLost,
    SandboxPool,
    available_tiers,
    default_pool,
    judge,
    sandboxes_lost,
)
from leafe_verl.sandbox.answers import parse_calls, parse_program
from leafe_verl.sandbox.confinement import FIRST_UID, MAX_THREADS
from leafe_verl.sandbox.protocol import (
    ENDED_EARLY,
    FOLDER_TOO_LARGE,
    KILLED,
    LOST,
    MALFORMED,
    NOT_REACHED,
    OUTPUT_TOO_LARGE,
    TIMEOUT,
)
from leafe_verl.sandbox.tier_choice import _choose_once
from leafe_verl.sandbox.values import MAX_DEPTH
from leafe_verl.sandbox.worker import TOO_MANY_THREADS, Ending, Job, WorkerLost
from sandbox.streams import OWN_STREAMS

QUICK = Limits(cpu_seconds=1, wall_seconds=10)
"""Short for a program that computes without end, and long for one that waits for a busy machine."""
GRACE_SECONDS = 3
"""Time to start and reap a process; generous, for a busy machine."""


def run(code: str, *calls: str, setup: str = "", limits: Limits = QUICK) -> RunResult:
    return default_pool().call(code, setup, calls, limits).result()


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
    calls = ("Text('a')", "Many([1])", "Point(1, 2)", "Colour.RED", "collections.defaultdict(int, a=2, b=1)")
    result = run(code, *calls)
    assert [call.value for call in result.calls] == ["a", [1], (1, 2), 3, {"a": 2, "b": 1}]
    assert [type(call.value) for call in result.calls] == [str, list, tuple, int, dict]


@pytest.mark.parametrize(
    ("expression", "reason"),
    [("object()", "object"), ("[1, (lambda: 1)]", "function"), ("'a' * 70_000", "large"), ("10**90_000", "large")],
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


@pytest.mark.parametrize(
    "call",
    [
        "__import__('math').nothing",
        "exec('from json import nothing')",
        "open('missing.txt')",
        "open(os.__file__ + 'x')",
        "exec('raise ImportError(os.path.expanduser(\\'~/a/b.py\\'))')",
        "open(os.sep + os.sep.join(['tmp', 'a', 'b']))",
        "os.listdir(os.sep + 'tmp')",
        "os.listdir(sys.prefix)",
        "ctypes.CDLL(os.sep + os.sep.join(['usr', 'lib', 'nothing.so']))",
        "exec('raise ValueError(str(sys.path))')",
    ],
)
def test_no_path_of_the_host_is_in_an_error(call: str) -> None:
    (result,) = run("import ctypes, os, sys", call).calls
    assert result.outcome is CallOutcome.RAISED
    for path in ("/tmp", "/usr", "/home", "/root", str(Path.home()), os.path.dirname(os.__file__), sys.prefix):
        assert path not in result.text


@pytest.mark.parametrize(
    "message", ["1/2 of a/b", "unsupported operand type(s) for /: 'str'", "<a></a>", "x / y", "//"]
)
def test_what_is_no_path_stays_in_an_error(message: str) -> None:
    assert run("", f"exec({f'raise ValueError({message!r})'!r})").calls[0].text == f"ValueError: {message}"


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
    CONFINEMENT[-2:] != ("landlock", "seccomp"), reason=f"of Landlock and seccomp this kernel has {CONFINEMENT}"
)


def runs_in_progress() -> set[int]:
    """Processes below the zygotes of this process."""
    parents = {int(path.name): _parent(path) for path in Path("/proc").iterdir() if path.name.isdigit()}
    zygotes = {pid for pid in parents if _is_zygote(pid)}
    return {pid for pid in parents if _has_ancestor(pid, os.getpid(), parents) and parents[pid] in zygotes}


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _is_zygote(pid: int) -> bool:
    try:
        program, *arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b"bwrap" not in program and any(b"zygote import main" in argument for argument in arguments)
    except (FileNotFoundError, ProcessLookupError):
        return False


def _has_ancestor(pid: int, ancestor: int, parents: Mapping[int, int]) -> bool:
    while pid > 1 and pid != ancestor:
        pid = parents.get(pid, 0)
    return pid == ancestor


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
    start = time.monotonic()
    result = run(code, "1")
    assert time.monotonic() - start < QUICK.wall_seconds + GRACE_SECONDS
    assert result.failure is not None and any(failure in result.failure for failure in failures), result.failure
    assert result.calls[0].outcome is CallOutcome.NOT_REACHED
    assert runs_in_progress() == set()


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
    result = run(FORK_BOMB, "len(made)")
    assert result.calls[0].value == 0
    assert runs_in_progress() == set()


def test_thread_bombs_are_bounded_and_end_with_the_run() -> None:
    code = """
import threading, time
made = 0
threading.stack_size(2**15)
try:
    for _ in range(1000):
        threading.Thread(target=time.sleep, args=(30,)).start()
        made += 1
except (RuntimeError, MemoryError): pass
"""
    result = run(code, "made")
    assert result.failure is not None or result.calls[0].value < 256
    assert runs_in_progress() == set()


def test_the_kernel_bounds_the_threads_of_a_run_with_a_user_of_its_own() -> None:
    if value("__import__('os').getuid()") < FIRST_UID:  # type: ignore[operator]
        pytest.skip("runs have no users of their own here, where the judge is not root or is in a user namespace")
    running = default_pool().execute("import time\ntime.sleep(5)", "", QUICK)
    until(lambda: bool(runs_in_progress()))
    time.sleep(0.5)  # until it is confined
    limits = {line for pid in runs_in_progress() for line in Path(f"/proc/{pid}/limits").read_text().splitlines()}
    running.cancel()
    (told,) = [line.split() for line in limits if line.startswith("Max processes")]
    assert all(int(number) <= MAX_THREADS for number in told[2:4])


def test_too_many_threads_end_a_run_where_the_kernel_does_not_bound_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leafe_verl.sandbox.worker.MAX_THREADS", 20)
    code = """
import threading, time
for _ in range({}): threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
time.sleep(1)
"""
    threading_limits = Limits(cpu_seconds=4, wall_seconds=60)
    assert run(code.format(10), "1", limits=threading_limits).failure is None
    assert run(code.format(30), "1", limits=threading_limits).failure == TOO_MANY_THREADS
    assert TOO_MANY_THREADS.startswith(KILLED)


# --- Whole programs ---


def execute(code: str, stdin: str = "", limits: Limits = QUICK) -> ProgramResult:
    return default_pool().execute(textwrap.dedent(code), stdin, limits).result()


@pytest.mark.parametrize(
    "code",
    [
        "for line in sys.stdin: print(line.strip().upper())",
        "print(input().upper())\nprint(input().upper())",
        "sys.stdout.buffer.write(sys.stdin.buffer.read().upper())",
        "os.write(1, os.read(0, 99).upper())",
        "print(open(0).read().upper(), end='')",
        "out = open(1, 'w')\nout.write(sys.stdin.read().upper())",
        "sys.stdin.read()\nsys.stdin.seek(0)\nsys.stdout.write(sys.stdin.read().upper())",
        "atexit.register(lambda: sys.stdout.write(text))\ntext = sys.stdin.read().upper()",
        "def late():\n    time.sleep(0.01)\n    print('A\\nB')\nthreading.Thread(target=late).start()",
        "def main(): print('A\\nB'); sys.exit()\nif __name__ == '__main__': main()",
        "print('A\\nB')\nexit(0)",
        "print('A\\nB', flush=True)\nprint('dropped', file=sys.stderr)\nos._exit(0)",
    ],
)
def test_programs_read_and_write_in_every_usual_way(code: str) -> None:
    result = execute("import atexit, os, sys, threading, time\n" + code, "a\nb\n")
    assert (result.stdout, result.failure) == ("A\nB\n", None)


@pytest.mark.parametrize("name", OWN_STREAMS)
def test_what_plain_python_prints_counts(name: str) -> None:
    result = execute("import atexit, io, os, sys\n" + OWN_STREAMS[name])
    assert (result.stdout, result.failure) == ("4\n", None)


@pytest.mark.parametrize(
    ("code", "stdout", "failure"),
    [
        ("os._exit(0)", "", None),
        ("os.close(1)", "", "exit code 120"),
        ("sys.stdout.close()\nprint(5)", "4\n", "line 4: print(5)\nValueError: I/O operation on closed file."),
        ("sys.exit(-1)", "4\n", "line 3: sys.exit(-1)\nSystemExit: -1"),
        ("sys.exit(256)", "4\n", None),
    ],
)
def test_what_plain_python_loses_or_fails_with_counts_as_well(code: str, stdout: str, failure: str | None) -> None:
    result = execute(f"import os, sys\nprint(4)\n{code}")
    assert (result.stdout, result.failure) == (stdout, failure)


def test_the_standard_streams_are_those_of_a_pipe() -> None:
    result = execute("""
        import sys
        for each in (sys.stdin, sys.stdout, sys.stderr):
            print(each.name, each.mode, each.errors)
        print(sys.stdout.seekable(), sys.stdout.isatty(), sys.stdout is sys.__stdout__)
    """)
    assert result.stdout == (
        "<stdin> r surrogateescape\n<stdout> w surrogateescape\n<stderr> w backslashreplace\nFalse False True\n"
    )


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("print(1)\nexit(3)", "line 2: exit(3)\nSystemExit: 3"),
        ("print(1)\nraise SystemExit('why')", "line 2: raise SystemExit('why')\nSystemExit: why"),
        ("print(1)\ndef f(): {}[2]\nf()", "line 3: f()\nline 2, in f: def f(): {}[2]\nKeyError: 2"),
        ("print(1, flush=True)\nimport os\nos._exit(4)", "exit code 4"),
        ("print(1, flush=True)\nimport ctypes\nctypes.string_at(0)", f"{KILLED} (SIGSEGV)"),
        ("print(1, flush=True)\nwhile True: pass", TIMEOUT),
        ("print(1, flush=True)\nwhile True: print('x' * 99)", OUTPUT_TOO_LARGE),
        ("print(1, flush=True)\ninput()", "line 2: input()\nEOFError: EOF when reading a line"),
    ],
)
def test_what_ended_a_program_is_said_beside_what_it_wrote(code: str, failure: str) -> None:
    result = execute(code)
    assert result.failure == failure and result.stdout.startswith("1\n")
    assert len(result.stdout) <= QUICK.output_bytes
    assert execute("if: pass").failure == "line 1: if: pass\nSyntaxError: invalid syntax"


RECURSION = """
import resource, sys, threading
from functools import lru_cache
sys.setrecursionlimit(1 << 25)
@lru_cache(None)
def deep(n): return 0 if n == 0 else 1 + deep(n - 1)
"""


@pytest.mark.parametrize("memory", [2**26, 256_000_000, 2**29])
@pytest.mark.parametrize("stack", [2**27, 2**28, 2**30])
def test_a_stack_counts_as_far_as_it_is_used(stack: int, memory: int) -> None:
    code = f"{RECURSION}threading.stack_size({stack})\nthreading.Thread(target=lambda: print(deep(5000))).start()"
    result = execute(code, limits=Limits(cpu_seconds=4, wall_seconds=20, memory_bytes=memory))
    assert (result.stdout, result.failure) == ("5000\n", None)


def test_a_recursion_gets_as_deep_as_in_plain_python() -> None:
    code = "def f(n):\n    try: return f(n + 1)\n    except RecursionError: return n\n"
    plain = subprocess.run([sys.executable, "-c", f"{code}print(f(0))"], capture_output=True, text=True, check=True)
    assert execute(f"{code}print(f(0))").stdout == plain.stdout
    assert run(code, "f(0)").calls[0].value == int(plain.stdout)


def test_the_main_threads_stack_grows_as_well() -> None:
    unlimited = "resource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
    result = execute(f"{RECURSION}{unlimited}print(deep(60000))", limits=Limits(cpu_seconds=4, wall_seconds=20))
    assert (result.stdout, result.failure) == ("60000\n", None)


def test_memory_is_bounded_all_the_same() -> None:
    result = execute("import threading\nthreading.stack_size(2**20)\nx = bytearray(10**9)")
    assert result.failure is not None and result.failure.endswith("MemoryError")
    assert "not allowed" in str(execute("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))").failure)


def test_programs_print_integers_of_any_length() -> None:
    assert execute("print(len(str(10**5000 + int(input()))))", "9" * 4999).stdout == "5001\n"


def test_a_large_input_goes_in_and_need_not_be_read() -> None:
    text = "0123456789\n" * 400_000
    assert execute("import sys\nprint(len(sys.stdin.read()))", text).stdout == f"{len(text)}\n"
    assert execute("print('unread')", text).stdout == "unread\n"


def test_what_is_no_text_comes_back_with_replacements() -> None:
    assert execute("import sys\nsys.stdout.buffer.write(b'a\\xff')").stdout == "a\ufffd"
    assert execute("import os\nos.write(1, os.read(0, 9))", "\ud800").stdout == "\ufffd" * 3


# --- Sharing ---


def test_threads_and_event_loops_share_a_pool() -> None:
    async def wait(numbers: range) -> list[object]:
        futures = [default_pool().call("", "", [f"{number}"], QUICK) for number in numbers]
        return [result.calls[0].value for result in await asyncio.gather(*map(asyncio.wrap_future, futures))]

    with ThreadPoolExecutor(4) as threads:
        ranges = [range(start, start + 5) for start in range(0, 20, 5)]
        found = list(threads.map(lambda numbers: asyncio.run(wait(numbers)), ranges))
    assert found == [list(numbers) for numbers in ranges]


def test_waiting_in_the_queue_does_not_use_up_a_runs_time() -> None:
    limits = Limits(cpu_seconds=1, wall_seconds=1.5)
    with SandboxPool(workers=1) as pool:
        futures = [pool.call("import time\ntime.sleep(0.6)", "", ["1"], limits) for _ in range(4)]
        assert [future.result().failure for future in futures] == [None] * 4


def test_a_cancelled_run_is_dropped_from_the_queue_or_killed() -> None:
    endless = Limits(cpu_seconds=60, wall_seconds=60)
    with SandboxPool(workers=1) as pool:
        pool.call("", "", ["1"]).result()
        start = time.monotonic()
        running, queued, wanted = (
            pool.call(code, "", ["1"], endless) for code in ("while True: pass", "while True: pass", "")
        )
        until(lambda: bool(runs_in_progress()))
        assert queued.cancel() and running.cancel()
        assert wanted.result().calls[0].value == 1
        assert time.monotonic() - start < endless.wall_seconds
    with pytest.raises(CancelledError):
        running.result()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_closed_pool_ends_its_runs_and_refuses_others() -> None:
    pool = SandboxPool(workers=1)
    pool.call("", "", ["1"]).result()
    future = pool.call("while True: pass", "", ["1"], Limits(cpu_seconds=60, wall_seconds=60))
    until(lambda: bool(runs_in_progress()))
    pool.close()
    pool.close()
    assert future.cancelled() and runs_in_progress() == set()
    with pytest.raises(RuntimeError, match="closed"):
        pool.call("", "", ["1"])


def test_a_forked_process_starts_zygotes_of_its_own_and_leaves_these_alone() -> None:
    assert value("1") == 1
    child = os.fork()
    if child == 0:
        os._exit(default_pool().call("", "", ["41 + 1"], QUICK).result().calls[0].value)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 42
    assert value("2") == 2


def test_nothing_is_left_of_an_interpreter_that_ends_in_the_midst_of_a_run() -> None:
    program = """
import os, sys, time
from leafe_verl.sandbox import Limits, SandboxPool
from sandbox.test_pool import runs_in_progress, until
pool = SandboxPool(workers=1)
pool.call("", "", ["1"]).result()
pool.call("while True: pass", "", ["1"], Limits(cpu_seconds=60, wall_seconds=60))
until(lambda: bool(runs_in_progress()))
print(*runs_in_progress(), flush=True)
if sys.argv[1] == "kill": os.kill(os.getpid(), 9)
"""
    for way in ("exit", "kill"):
        ended = subprocess.run(
            [sys.executable, "-c", program, way], capture_output=True, text=True, cwd=Path(__file__).parents[1]
        )
        pids = ended.stdout.split()
        assert pids, ended.stderr
        until(lambda pids=pids: not any(Path("/proc", pid).exists() for pid in pids))


def test_descriptors_are_closed() -> None:
    with SandboxPool(workers=1) as pool:
        pool.call("", "", ["1"]).result()
        before = len(os.listdir("/proc/self/fd"))
        for code in ("", "import os\nos._exit(0)", "def"):
            pool.call(code, "", ["1"]).result()
            pool.execute(code, "input").result()
        assert len(os.listdir("/proc/self/fd")) == before
    assert len(os.listdir("/proc/self/fd")) < before


def test_a_run_sees_nothing_of_an_earlier_one() -> None:
    with SandboxPool(workers=1) as pool:
        code = "import builtins, math\nbuiltins.left = math.left = 'left'"
        assert pool.call(code, "", ["left"]).result().calls[0].value == "left"
        assert pool.call("import math", "", ["left", "math.left"]).result().calls[0].outcome is CallOutcome.RAISED


# --- What is lost ---

WITHOUT_NAMESPACES = next((tier.number for tier in available_tiers() if not tier.bubblewrap), None)
has_plain_tier = pytest.mark.skipif(WITHOUT_NAMESPACES is None, reason="no tier without namespaces works here")


@has_plain_tier
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_run_whose_zygote_dies_or_hangs_is_repeated(monkeypatch: pytest.MonkeyPatch, blow: signal.Signals) -> None:
    monkeypatch.setattr("leafe_verl.sandbox.worker.GRACE_SECONDS", 0.2)
    monkeypatch.setattr("leafe_verl.sandbox.worker.CLOSE_SECONDS", 0.2)
    with SandboxPool(workers=1, tier=WITHOUT_NAMESPACES) as pool:
        # Its zygote has begun, and with it the trial that this makes of a run.
        assert pool.call("", "", ["1"]).result().calls[0].value == 1
        # Longer than looking for it takes on a busy machine.
        future = pool.call("import time\ntime.sleep(4)", "", ["2"], Limits(wall_seconds=40))
        until(lambda: bool(runs_in_progress()))
        (zygote,) = {_parent(Path("/proc", str(pid))) for pid in runs_in_progress()}
        os.kill(zygote, blow)
        assert future.result().calls[0].value == 2
        assert pool.call("", "", ["3"]).result().calls[0].value == 3
        assert pool.lost == 1 and sandboxes_lost() >= 1
    assert not Path("/proc", str(zygote)).exists()


@pytest.mark.parametrize(
    ("losses", "failure"),
    [((True, True), KILLED), ((True, False), LOST), ((False, True), LOST), ((False, False), LOST)],
)
def test_who_loses_two_sandboxes_has_failed_and_who_never_began_is_unscored(
    monkeypatch: pytest.MonkeyPatch, losses: tuple[bool, ...], failure: str
) -> None:
    began = iter(losses)

    class Losing:
        def __init__(self, *_: object) -> None:
            """Starts nothing."""

        def run(self, *_: object) -> None:
            raise WorkerLost(next(began))

        def close(self) -> None:
            """Nothing to close."""

    monkeypatch.setattr("leafe_verl.sandbox.pool.Worker", Losing)
    with SandboxPool(workers=1) as pool:
        result = pool.call("def f(): return 1", "", ["f()"]).result()
        assert (result.failure or "").startswith(failure) and result.calls == (NOT_REACHED,)
        began = iter(losses)
        assert (pool.execute("", "").result().failure or "").startswith(failure)
        began = iter(losses)
        if failure == LOST:
            with pytest.raises(SandboxLost):
                judge("def f(): return 1", ["assert f() == 1"], "", pool)
        else:
            assert not judge("def f(): return 1", ["assert f() == 1"], "", pool).passed


def test_a_run_that_cannot_start_is_an_error_not_a_failure_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        is_clean = True

        def __init__(self, *_: object) -> None:
            """Starts nothing."""

        def run(self, *_: object) -> Ending:
            return Ending(b"", b"", TIMEOUT)

        def close(self) -> None:
            """Nothing to close."""

    monkeypatch.setattr("leafe_verl.sandbox.pool.Worker", Slow)
    with SandboxPool(workers=1) as pool, pytest.raises(RuntimeError, match="did not start"):
        pool.call("", "", ["1"]).result()


def test_a_folder_that_is_too_large_before_the_code_begins_is_a_failed_run() -> None:
    ending = Ending(b"", b"", FOLDER_TOO_LARGE)
    assert parse_calls(Job("", QUICK, calls=("1",)), ending) == RunResult((NOT_REACHED,), FOLDER_TOO_LARGE)
    assert parse_program(Job("", QUICK), ending) == ProgramResult("", FOLDER_TOO_LARGE)


# --- Settings ---


@pytest.fixture
def nothing_works(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("leafe_verl.sandbox.tier_choice._problem_with", lambda tier, *_: "not today")
    _choose_once.cache_clear()
    yield
    _choose_once.cache_clear()


@pytest.mark.usefixtures("nothing_works")
def test_no_confinement_is_refused_unless_accepted(caplog: pytest.LogCaptureFixture) -> None:
    with SandboxPool(workers=1) as pool, pytest.raises(RuntimeError, match="allow_unconfined=true"):
        pool.call("", "", ["1"]).result()
    with SandboxPool(workers=1, allow_unconfined=True) as pool:
        result = pool.call("", "", ["1"], QUICK).result()
    assert result.calls[0].value == 1 and result.confinement == ()
    (record,) = [record for record in caplog.records if "tier 5" in record.getMessage()]
    assert record.levelname == "WARNING" and "tier 2: not today" in record.getMessage()


@pytest.mark.parametrize(
    ("options", "setting"), [({"workers": 0}, "workers"), ({"tier": 9}, "tier"), ({"bubblewrap": "yes"}, "bubblewrap")]
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} is .*; expected"):
        SandboxPool(**options)


def test_death_by_a_signal_names_it() -> None:
    result = run("import ctypes\nctypes.string_at(0)", "1")
    assert result.failure == f"{KILLED} ({signal.SIGSEGV.name})"
