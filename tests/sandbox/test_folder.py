"""The second profile: runs with a folder, in every tier that works here. They write there and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from leafe_verl.sandbox import CallOutcome, File, Files, Limits, Link, SandboxPool, available_tiers, judge
from leafe_verl.sandbox.protocol import FOLDER_TOO_LARGE
from leafe_verl.sandbox.scratch import ScratchFolder
from leafe_verl.sandbox.tiers import Tier
from leafe_verl.sandbox.unpacking import FromMemory
from leafe_verl.sandbox.usage import deleted_files
from sandbox.host import Host

FILES: Files = {
    "pack/__init__.py": File(b""),
    "pack/sums.py": File("def f(x):\n    return x + 1  # ä\n".encode(), 0o600),
    "pack/deep/er/data.bin": File(bytes(range(256)), 0o640),
    "run.sh": File(b"#!/bin/sh\n", 0o755),
    "inner": Link("pack/sums.py"),
    "outer": Link("/etc/passwd"),
    "up": Link("../.."),
}
LIMITS = Limits(cpu_seconds=4, wall_seconds=60)
LOOK = """
import os
def look():
    found = {}
    for folder, folders, names in os.walk("."):
        for path in (os.path.relpath(os.path.join(folder, name), ".") for name in names + folders):
            if os.path.islink(path):
                found[path] = os.readlink(path)
            elif os.path.isfile(path):
                found[path] = (open(path, "rb").read(), os.stat(path).st_mode & 0o7777, os.stat(path).st_nlink)
    return found
def attempt(function, *arguments):
    try:
        function(*arguments)
        return "done"
    except OSError as error:
        return "refused"
def write(path, flags=os.O_WRONLY | os.O_CREAT):
    descriptor = os.open(path, flags, 0o666)
    os.write(descriptor, b"x")
    os.close(descriptor)
"""


@pytest.fixture(scope="module", params=available_tiers(), ids=lambda tier: f"tier {tier.number}")
def tier(request: pytest.FixtureRequest) -> Tier:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def pool(tier: Tier) -> Iterator[SandboxPool]:
    with SandboxPool(workers=1, tier=tier.number, with_folder=True) as made:
        yield made


@pytest.fixture
def writing(tier: Tier, pool: SandboxPool) -> SandboxPool:
    if tier.strict:
        pytest.skip("in this tier a program opens no file, and so has no folder")
    return pool


# --- What is there ---


def test_the_folder_is_identical_to_the_byte_modes_and_links_included(writing: SandboxPool) -> None:
    (call,) = writing.call(LOOK, "", ["look()"], LIMITS, FILES).result().calls
    expected = {
        path: entry.target if isinstance(entry, Link) else (entry.content, entry.mode, 1)
        for path, entry in FILES.items()
    }
    assert call.value == expected


def test_modules_are_imported_from_it_in_every_tier(pool: SandboxPool) -> None:
    code = "from pack.sums import f\nimport pack.sums"
    one, two = pool.call(code, "", ["f(1)", "pack.sums.__name__"], LIMITS, FILES).result().calls
    assert (one.value, two.value) == (2, "pack.sums")
    assert pool.execute("from pack.sums import f\nprint(f(2))", "", LIMITS, FILES).result().stdout == "3\n"


def test_from_memory_a_traceback_shows_source() -> None:
    finder = FromMemory({"a.py": ["x = 1\n", 0o644], "pack/inner/b.py": ["", 0o644], "link": ["a.py"]})
    found = {name: finder.find_spec(name) for name in ("a", "pack", "pack.inner.b", "link", "b", "pack.b")}
    assert [name for name, spec in found.items() if spec is None] == ["link", "b", "pack.b"]
    assert found["a"] and found["a"].loader.get_source("a") == "x = 1\n"  # type: ignore[union-attr, attr-defined]
    assert found["pack"] and found["pack"].submodule_search_locations is not None


def test_a_run_leaves_nothing_for_the_next(writing: SandboxPool) -> None:
    code = "import os\nos.makedirs('a/b')\nopen('a/b/c', 'w').write('x')\nos.remove('run.sh')\nos.symlink('/', 'root')"
    assert writing.execute(code, "", LIMITS, FILES).result().failure is None
    (call,) = writing.call(LOOK, "", ["sorted(look())"], LIMITS, FILES).result().calls
    assert call.value == sorted(FILES)


def test_a_folder_that_cannot_be_emptied_costs_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(self: ScratchFolder) -> None:
        raise OSError("no room")

    with SandboxPool(workers=1, with_folder=True) as pool:
        monkeypatch.setattr(ScratchFolder, "empty", refuses)
        first = pool.execute("print(1)", "", LIMITS, FILES).result()
        monkeypatch.undo()
        second = pool.execute("print(2)", "", LIMITS, FILES).result()
        assert (first.stdout, second.stdout, pool.lost) == ("1\n", "2\n", 0)


def test_the_path_is_not_told(writing: SandboxPool) -> None:
    (call,) = writing.call("import os", "", ["os.getcwd()"], LIMITS, FILES).result().calls
    assert call.value == "/folder"
    assert writing.execute("import os\nprint(os.getcwd())", "", LIMITS, FILES).result().stdout == "/folder\n"


def test_a_pool_without_folders_takes_none() -> None:
    with SandboxPool(workers=1) as plain, pytest.raises(ValueError, match="with_folder=True"):
        plain.execute("", "", LIMITS, FILES)


# --- What may be written ---

ALLOWED = {
    "make a file": "write, 'new.txt'",
    "change a file": "write, 'pack/sums.py', os.O_WRONLY | os.O_TRUNC",
    "write through a link inside": "write, 'inner'",
    "make a folder": "os.mkdir, 'folder'",
    "move a file": "os.rename, 'new.txt', 'folder/new.txt'",
    "link out": "os.symlink, '/etc', 'etc'",
    "delete": "os.unlink, 'run.sh'",
}
REFUSED = {
    "write above": "write, '../x'",
    "write elsewhere": "write, '/tmp/x'",
    "read through a link out": "open, 'outer'",
    "list through a link out": "os.listdir, 'etc'",
    "write through a link out": "write, 'etc/x'",
    "write through a link up": "write, 'up/x'",
    "make a device": "os.mknod, 'null', 0o20666, os.makedev(1, 3)",
    "make a disk": "os.mknod, 'disk', 0o60666, os.makedev(254, 0)",
    "make a pipe": "os.mkfifo, 'pipe'",
    "link a file of the host": "os.link, '/etc/passwd', 'hard'",
    "move a file out": "os.rename, 'inner', '/tmp/x'",
    "make a folder elsewhere": "os.mkdir, '/tmp/x'",
    "fork": "os.fork,",
    "start a program": "os.execv, './run.sh', ['run.sh']",
    "a large file": "os.truncate, os.open('large', os.O_WRONLY | os.O_CREAT), 2**40",
}


def test_it_writes_there_and_nowhere_else(tier: Tier, writing: SandboxPool) -> None:
    with Host() as host:
        code = LOOK + host.prelude("folder").replace("def attempt", "def unused")
        canary = {
            "change a file of the host": "write, CANARY",
            "truncate a file of the host": "os.open, CANARY, os.O_RDONLY | os.O_TRUNC",
            "delete a file of the host": "os.unlink, CANARY",
            "replace a file of the host": "os.rename, 'inner', CANARY",
            "make a file in the host's folder": "write, FOLDER + '/x'",
        }
        actions = ALLOWED | REFUSED | canary
        calls = [f"attempt({arguments})" for arguments in actions.values()]
        run = writing.call(code, "", calls, LIMITS, FILES).result()
        told = dict(zip(actions, (call.value for call in run.calls), strict=True))
        assert {name: told[name] for name in ALLOWED} == dict.fromkeys(ALLOWED, "done")
        assert {name: told[name] for name in actions if name not in ALLOWED and told[name] != "refused"} == {}
        assert run.confinement == tier.confinement
        assert {name: harms for name, harms in host.harms().items() if harms} == {}


def test_room_beyond_the_end_of_a_file_is_refused(tier: Tier, writing: SandboxPool) -> None:
    if not tier.seccomp:
        pytest.skip("in this tier no system call is refused")
    code = "import ctypes, fcntl, os, struct\nlibc = ctypes.CDLL(None)\nmade = os.open('large', os.O_RDWR | os.O_CREAT)"
    reserve = "struct.pack('hhqqii4i', 0, 0, 0, 2**24, 0, 0, 0, 0, 0, 0)"
    calls = ["libc.fallocate(made, 1, ctypes.c_long(0), ctypes.c_long(2**24))", "os.fstat(made).st_blocks"]
    calls += [f"fcntl.ioctl(made, 0x40305828, {reserve})", calls[-1]]
    kept, blocks, asked, then = writing.call(code, "", calls, LIMITS, FILES).result().calls
    assert (kept.value, blocks.value, then.value) == (-1, 0, 0)
    assert asked.outcome is CallOutcome.RAISED and "PermissionError" in asked.text


def test_where_no_file_can_be_opened_none_is_written(tier: Tier, pool: SandboxPool) -> None:
    if not tier.strict:
        pytest.skip("in this tier a program has a folder")
    calls = [f"attempt({arguments})" for arguments in (ALLOWED | REFUSED).values()]
    run = pool.call(LOOK, "", calls, LIMITS, FILES).result()
    assert {call.value or call.outcome for call in run.calls} <= {"refused", CallOutcome.RAISED}


# --- How much ---

SEEING = 1 << 19 | 1 << 21
"""CAP_SYS_PTRACE and CAP_SYS_ADMIN."""
FLOODS = {
    "a million files": "for n in range(10**6): os.close(os.open(f'f{n}', os.O_CREAT | os.O_WRONLY))",
    "a million folders": "for n in range(10**6): os.mkdir(f'f{n}')",
    "folders in folders": "for n in range(10**6): os.mkdir('d'); os.chdir('d')",
    "folders without rights": "for n in range(10**6): os.mkdir(f'f{n}', 0)",
    "a million links": "for n in range(10**6): os.symlink('/', f'l{n}')",
    "many large files": "for n in range(10**6): open(f'f{n}', 'wb').write(bytes(2**20))",
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_ended_and_cleared(writing: SandboxPool, name: str) -> None:
    run = writing.execute(f"import os\n{FLOODS[name]}", "", LIMITS, FILES).result()
    assert run.failure == FOLDER_TOO_LARGE
    (call,) = writing.call(LOOK, "", ["sorted(look())"], LIMITS, FILES).result().calls
    assert call.value == sorted(FILES)


def test_a_huge_file_is_refused(writing: SandboxPool) -> None:
    code = "f = open('large', 'wb')\nf.write(bytes(2**21))"
    assert "File too large" in str(writing.execute(code, "", LIMITS, FILES).result().failure)


def test_nothing_is_left_on_the_disk(tier: Tier) -> None:
    before = set(Path(tempfile.gettempdir()).glob("leafe-run-*"))
    with SandboxPool(workers=1, tier=tier.number, with_folder=True) as own:
        own.execute("import os\nos.mkdir('d')\nos.chdir('d')\nos.mkdir('e', 0)", "", LIMITS, FILES).result()
        assert len(set(Path(tempfile.gettempdir()).glob("leafe-run-*")) - before) <= 1
    assert not {path for path in Path(tempfile.gettempdir()).glob("leafe-run-*") if path not in before}


KILLED = """
import os, signal
from leafe_verl.sandbox.scratch import ScratchFolder
folder = ScratchFolder()
os.makedirs(folder.path + "/a/b")
print(folder.path)
"""


def test_a_folder_ends_with_its_process_also_if_that_is_killed() -> None:
    def left_by(code: str) -> Path:
        done = subprocess.run([sys.executable, "-c", KILLED + code], capture_output=True, text=True, timeout=60)
        return Path(done.stdout.strip())

    assert not left_by("").parent.exists()
    abandoned = left_by("import sys\nsys.stdout.flush()\nos.kill(os.getpid(), signal.SIGKILL)")
    assert abandoned.exists()
    used = ScratchFolder()
    assert not abandoned.parent.exists()
    other = ScratchFolder()
    assert Path(used.path).exists() and Path(other.path).exists()
    used.close()
    other.close()
    assert not Path(used.path).parent.exists()


def test_a_folder_that_cannot_be_opened_is_beyond_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test acts as if this user were not root, to whom no folder is closed."""
    closed: dict[str, OSError] = {}
    real = os.open

    def opened(name: str, flags: int, *rest: int, dir_fd: int | None = None) -> int:
        if name in closed:
            raise closed[name]
        return real(name, flags, *rest, dir_fd=dir_fd)

    scratch = ScratchFolder()
    os.makedirs(Path(scratch.path, "outer", "inner"))
    monkeypatch.setattr(os, "open", opened)
    for error, over in ((PermissionError(), True), (FileNotFoundError(), False), (NotADirectoryError(), False)):
        closed["inner"] = error
        assert scratch.is_over(Limits()) is over
    scratch.close()


def test_deleted_files_count_as_long_as_they_are_open() -> None:
    scratch = ScratchFolder()
    limits = Limits(folder_bytes=2**20)
    with open(Path(scratch.path, "file"), "wb") as file, open(os.devnull) as other:
        file.write(bytes(2**21))
        file.flush()
        os.unlink(file.name)
        assert scratch.is_over(limits, [os.getpid()]) and not scratch.is_over(limits)
        assert 2**21 in deleted_files([os.getpid()], os.fstat(file.fileno()).st_dev)
        assert list(deleted_files([os.getpid()], os.fstat(other.fileno()).st_dev)) == []
    assert not scratch.is_over(limits, [os.getpid()])
    scratch.close()


def test_deleted_files_count_as_long_as_they_are_mapped(writing: SandboxPool) -> None:
    rights = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    if SEEING & ~int(rights.split()[1], 16):
        pytest.skip("needs the rights to trace and to administer, without which mapped files are not shown")
    code = """
import ctypes, os, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
for _ in range(40):
    made = os.open('f', os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.write(made, bytes(2**20))
    libc.mmap(None, ctypes.c_size_t(4096), 1, 2, made, ctypes.c_long(0))
    os.close(made)
    os.unlink('f')
time.sleep(30)
"""
    assert writing.execute(code, "", LIMITS, FILES).result().failure == FOLDER_TOO_LARGE


def test_deleting_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    scratch = ScratchFolder()
    os.symlink(tmp_path, Path(scratch.path, "link"))
    os.makedirs(Path(scratch.path, "a", "b"))
    os.symlink(tmp_path / "kept", Path(scratch.path, "a", "b", "link"))
    os.symlink(tmp_path, Path(scratch.path, "a", "folder"))
    assert not scratch.is_over(Limits(folder_files=5)) and scratch.is_over(Limits(folder_files=4))
    scratch.empty()
    assert os.listdir(scratch.path) == [] and (tmp_path / "kept").read_text() == "kept"
    scratch.close()
    assert not Path(scratch.path).exists()


# --- Verdicts ---

ANSWERS = '{"defined": true}\\n{"value": 3}\\n{"value": 3}\\n{"value": 3}\\n'
FORGING = {
    "a module that the check imports": {
        "math.py": "def isclose(*a, **k): return True\nnan = 0",
        "pack.py": "def f(): return 2",
    },
    "equal to everything": {"pack.py": "class A(int):\n    def __eq__(s, o): return True\ndef f(): return A(2)"},
    "leaves early": {"pack.py": "import os\nos._exit(0)"},
    "writes answers of its own before they are asked for": {
        "pack.py": f"import os\nos.write(3, b'{ANSWERS}')\ndef f(): return 2",
    },
    "a start-up file": {
        "sitecustomize.py": "import builtins\nbuiltins.abs = lambda x: 0",
        "pack.py": "import sitecustomize\ndef f(): return 2",
    },
}


@pytest.mark.parametrize("name", FORGING)
def test_files_forge_no_verdict(pool: SandboxPool, name: str) -> None:
    files = {path: File(text.encode()) for path, text in FORGING[name].items()}
    tests = ["assert f() == 3", "assert math.isclose(f(), 3)", "assert abs(f() - 3) < 0.5"]
    assert judge("from pack import f", tests, "", pool, LIMITS, files=files).passed == 0
    right = {"pack.py": File(b"def f(): return 3")}
    assert judge("from pack import f", tests, "", pool, LIMITS, files=right).all_passed
