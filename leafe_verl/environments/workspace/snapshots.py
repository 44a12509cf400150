"""The files of a repository as one immutable value: a Merkle tree, as Git has it.

A folder's digest covers names, contents, modes and links of all that is below it, so equal digests mean equal files to
the byte. A changed file gives a new folder for each one above it, and everything else is shared with the old value: an
attempt's snapshots together take little more memory than its last. Rollback is an assignment.
"""

from __future__ import annotations

import functools
import hashlib
import os
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from leafe_verl.sandbox import File, Files, Limits, Link
from leafe_verl.sandbox.scratch import MAX_DEPTH as DEPTH_OF_A_RUN

Node: TypeAlias = "Folder | File | Link"
MAX_FILES = Limits.folder_files // 4
"""Number of files that a repository may have; less than a run's folder takes."""
MAX_ENTRIES = Limits.folder_files // 2
"""Number of files, links and folders together; less than a run's folder takes."""
MAX_DEPTH = DEPTH_OF_A_RUN // 2
"""Number of folders that a file may lie in; less than a run's folder takes."""
MAX_PATH_BYTES = 1024
"""Length that a path may have; less than the system takes."""
MAX_FILE_BYTES = 64 * 2**10
"""Size that a file may have; less than a run's folder takes."""
MAX_LINKS = 10
"""Number of links that a path is followed through, as a loop of links has no end."""


@dataclass(frozen=True)
class Folder:
    """A folder without its name. Empty folders are not kept, as in Git."""

    entries: tuple[tuple[str, Node], ...] = ()
    """Names and what they are, in the order of the names."""

    @classmethod
    def of(cls, files: Files) -> Folder:
        """Return the folder with these files. Raises ValueError for a path that leaves it or is there twice,
        and for more than a run's folder takes."""
        folder = cls()
        for path, node in files.items():
            if not is_plain(path):
                raise ValueError(f"{path!r:.80} is a path; expected one below the repository, without `.` and `..`")
            folder = folder.with_node(path, node)
        if len(list(folder.files())) < len(files):
            raise ValueError("a path is both a file and a folder")
        return folder

    @functools.cached_property
    def size(self) -> int:
        """Number of files, links and folders in the folder, at any depth."""
        return len(self.entries) + sum(node.size for _, node in self.entries if isinstance(node, Folder))

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all that is in the folder, in hexadecimal digits."""
        return _hash("folder", "".join(f"{name}\0{_digest(node)}\n" for name, node in self.entries).encode())

    def files(self) -> Mapping[str, File | Link]:
        """Return path -> file or link, in the order of the paths' names."""
        return dict(self._walk(""))

    def _walk(self, prefix: str) -> Iterator[tuple[str, File | Link]]:
        for name, node in self.entries:
            if isinstance(node, Folder):
                yield from node._walk(f"{prefix}{name}/")
            else:
                yield prefix + name, node

    def resolve(self, path: str) -> str | None:
        """Return the path that a path leads to when links are followed. None if it leads out of the folder."""
        for _ in range(MAX_LINKS):
            link = self._first_link(path)
            if link is None:
                return path
            place, target, rest = link
            path = posixpath.normpath(posixpath.join(posixpath.dirname(place), target, rest))
            if not is_plain(path):
                return None
        return None

    def _first_link(self, path: str) -> tuple[str, str, str] | None:
        """Return the path of the first link on a path, its target, and the rest of the path behind it."""
        node: Node | None = self
        names = path.split("/")
        for index, name in enumerate(names):
            node = dict(node.entries).get(name) if isinstance(node, Folder) else None
            if isinstance(node, Link):
                return "/".join(names[: index + 1]), node.target, "/".join(names[index + 1 :])
        return None

    def find(self, path: str) -> Node | None:
        """Return what is at a path, without following links; None if nothing is."""
        node: Node | None = self
        for name in path.split("/"):
            node = dict(node.entries).get(name) if isinstance(node, Folder) else None
        return node

    def with_node(self, path: str, node: Node) -> Folder:
        """Return the folder with something else at a path, and new folders where they are missing.

        Raises ValueError if a run's folder would not take it: the run would end as one that wrote too much.
        """
        depth, length = path.count("/"), len(path.encode())
        if depth > MAX_DEPTH or length > MAX_PATH_BYTES:
            raise ValueError(
                f"{path!r:.80} lies in {depth} folders, and the path has {length} bytes; expected at most {MAX_DEPTH} "
                f"folders and {MAX_PATH_BYTES} bytes"
            )
        changed = self._with_node(path, node)
        if changed.size > MAX_ENTRIES:
            raise ValueError(f"there are {changed.size} files and folders; expected at most {MAX_ENTRIES}")
        return changed

    def _with_node(self, path: str, node: Node) -> Folder:
        name, _, rest = path.partition("/")
        entries = dict(self.entries)
        if rest:
            inner = entries.get(name)
            node = (inner if isinstance(inner, Folder) else Folder())._with_node(rest, node)
        return Folder(tuple(sorted({**entries, name: node}.items())))


def is_plain(path: str) -> bool:
    """Return whether a path is relative, and every name of it is one that a file may have."""
    names = path.split("/")
    return not any(name in ("", ".", "..") or "\0" in name or len(name.encode()) > 255 for name in names)


def read_folder(path: Path) -> Folder:
    """Return what a folder on disk holds: files with their modes, and links, which are not followed."""
    found: dict[str, File | Link] = {}
    for place, folders, names in os.walk(path):
        for name in [*folders, *names]:
            here = Path(place, name)
            relative = here.relative_to(path).as_posix()
            if here.is_symlink():
                found[relative] = Link(os.readlink(here))
            elif here.is_file():
                found[relative] = File(here.read_bytes(), here.stat().st_mode & 0o777)
    return Folder.of(found)


def _digest(node: Node) -> str:
    if isinstance(node, Folder):
        return node.digest
    if isinstance(node, Link):
        return _hash("link", node.target.encode())
    return _hash(f"file {node.mode:o}", node.content)


def _hash(kind: str, content: bytes) -> str:
    return hashlib.sha256(f"{kind} {len(content)}\0".encode() + content).hexdigest()
