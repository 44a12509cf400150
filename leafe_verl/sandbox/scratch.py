"""The folder in which the runs of one zygote may write. It is empty before and after each run.

The runs are untrusted, and so is what they leave: links are not followed, and folders may be nested deeper than a path
or a recursion reaches.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import secrets
import stat
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

from leafe_verl.sandbox.protocol import Limits
from leafe_verl.sandbox.usage import deleted_files

PREFIX = "leafe-run-"
MAX_DEPTH = 40
"""Deepest nesting of folders that is looked into for what a run has written; deeper ones are beyond its limits."""
SHOWN_AS = b"/folder"
"""What stands in a run's output for the path, which differs from zygote to zygote."""


class ScratchFolder:
    """A folder that any user may write to, in one that only this user can enter. Its runs have users of their own.

    It is deleted when this process ends; if the process is killed, when another one makes such a folder.
    """

    def __init__(self) -> None:
        _delete_abandoned()
        made = Path(tempfile.mkdtemp(prefix="leafe-new-"))
        # The lock tells others that the folder is in use. It is there before the folder has the name they look for.
        self._lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        parent = made.rename(made.with_name(made.name.replace("leafe-new-", PREFIX)))
        self.path = str(parent / "folder")
        os.mkdir(self.path)
        os.chmod(self.path, 0o777)
        self._delete = weakref.finalize(self, _delete_own, parent, self._lock, os.getpid())

    def is_over(self, limits: Limits, pids: Iterable[int] = ()) -> bool:
        """Return whether a run, which may go on meanwhile, has written more than it may.

        `pids`: its processes, in which deleted files may still be open. What hides in a folder that this user may not
        open counts as more, too.
        """
        size = 0
        try:
            with _opened(self.path) as root:
                written = (found.st_blocks * 512 if stat.S_ISREG(found.st_mode) else 0 for found in _walk(root, 0))
                deleted = deleted_files(pids, os.fstat(root).st_dev)
                for number, taken in enumerate(itertools.chain(written, deleted), start=1):
                    size += taken
                    if number > limits.folder_files or size > limits.folder_bytes:
                        return True
        except PermissionError:
            return True
        return False

    def hide(self, output: bytes) -> bytes:
        """Return output with SHOWN_AS for the folder's path."""
        return output.replace(self.path.encode(), SHOWN_AS)

    def empty(self) -> None:
        """Delete what is in the folder. No process may be left that could write to it. Raises OSError."""
        os.chmod(self.path, 0o777)  # a run of this user's may have changed it
        _empty(self.path)

    def close(self) -> None:
        """Delete the folder. May be called twice."""
        self._delete()


def _delete_own(parent: Path, lock: int, owner: int) -> None:
    if os.getpid() == owner:  # a forked copy of this process has the folder's name, but not the folder
        try:
            _delete(parent)
        finally:
            os.close(lock)


def _delete(parent: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        _empty(str(parent))
        parent.rmdir()


def _delete_abandoned() -> None:
    """Delete the folders whose processes were killed."""
    for parent in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # An error says that it is in use, another user's, or just deleted.
        with contextlib.suppress(OSError), _opened(str(parent)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _delete(parent)


def _walk(folder: int, depth: int) -> Iterator[os.stat_result]:
    """Yield the state of everything in a folder. Beyond MAX_DEPTH it yields without end.

    Raises PermissionError for a folder that this user may not open.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # deleted or replaced meanwhile
                state = entry.stat(follow_symlinks=False)
                yield state
                while depth >= MAX_DEPTH and stat.S_ISDIR(state.st_mode):
                    yield state
                if stat.S_ISDIR(state.st_mode):
                    with _opened(entry.name, folder) as inner:
                        yield from _walk(inner, depth + 1)


@contextlib.contextmanager
def _opened(name: str, parent: int | None = None) -> Iterator[int]:
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _empty(path: str) -> None:
    with _opened(path) as root:
        while names := os.listdir(root):
            for name in names:
                _remove(root, name)


def _remove(root: int, name: str) -> None:
    """Remove an entry of the folder `root`. What is nested in it is moved up first, so that no depth is too large."""
    if not _is_folder(name, root):
        os.unlink(name, dir_fd=root)
        return
    with _opened(name, root) as folder:
        for inner in os.listdir(folder):
            if _is_folder(inner, folder):
                # The run cannot have foreseen the name.
                os.rename(inner, f"moved-{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=root)
            else:
                os.unlink(inner, dir_fd=folder)
    os.rmdir(name, dir_fd=root)


def _is_folder(name: str, parent: int) -> bool:
    """Return whether an entry is a folder, and open it to this user: a run may have made it without any rights."""
    found = stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    if found:
        os.chmod(name, 0o700, dir_fd=parent)
    return found
