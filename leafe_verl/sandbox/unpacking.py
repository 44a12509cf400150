"""Fills a run's folder, in the process of the run and after it is confined, before any submitted code runs.

So the files belong to the run's own user, and what is written here is confined as the program is. Where no file can be
opened, modules are imported from memory instead, and the program finds no folder. It needs only the standard library.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:  # a smaller zygote forks faster
    from collections.abc import Mapping, Sequence
    from typing import Any

    Packed = Mapping[str, Sequence[Any]]
    """Path -> [content with a character for each byte, mode] of a file, or [target] of a link."""

USUAL_MASK = 0o022


def enter(folder: str, files: Packed, on_disk: bool) -> None:
    """Fill the empty `folder`, make it the working directory, and let imports find its modules first."""
    if not on_disk:
        sys.meta_path.insert(0, FromMemory(files))
        return
    os.chdir(folder)
    unpack(files)
    sys.path.insert(0, folder)


def unpack(files: Packed) -> None:
    """Write files and links into the working directory. Links come last, so that nothing is written through one."""
    os.umask(0)  # modes are set where files are made, since a run may not change them
    made = {""}
    for path, entry in sorted(files.items(), key=lambda each: len(each[1]), reverse=True):
        _make_folders(os.path.dirname(path), made)
        if len(entry) == 1:
            os.symlink(entry[0], path)
            continue
        content, mode = entry
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with open(descriptor, "wb") as file:
            file.write(content.encode("latin-1"))
    os.umask(USUAL_MASK)


def _make_folders(folder: str, made: set[str]) -> None:
    if folder not in made:
        _make_folders(os.path.dirname(folder), made)
        os.mkdir(folder, 0o755)
        made.add(folder)


class FromMemory:
    """Finds modules of a folder that is not on any disk. A folder without `__init__.py` is a package, too."""

    def __init__(self, files: Packed) -> None:
        self.sources = {path: entry[0] for path, entry in files.items() if len(entry) == 2 and path.endswith(".py")}

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        base = fullname.replace(".", "/")
        module, package = f"{base}.py", f"{base}/__init__.py"
        is_package = any(each.startswith(f"{base}/") for each in self.sources)
        if not is_package and module not in self.sources:
            return None
        origin = package if is_package else module
        loader = InMemory(fullname, origin, self.sources.get(origin, ""))
        found = ModuleSpec(fullname, loader, origin=origin, is_package=is_package)
        found.has_location = True
        return found


class InMemory(SourceFileLoader):
    """Loads a module from its source. It keeps no compiled code anywhere."""

    def __init__(self, fullname: str, path: str, source: str) -> None:
        super().__init__(fullname, path)
        self.source = source.encode("latin-1")

    def get_data(self, path: object) -> bytes:
        return self.source

    def path_stats(self, path: object) -> Any:
        raise OSError("it is on no disk")
