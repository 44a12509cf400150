"""The rows of task files: a repository, what is wrong with it, and the hidden tests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from leafe_verl.core.task import Task
from leafe_verl.environments.rows import read_fields, read_source, read_strings, task_key, without_nulls
from leafe_verl.environments.workspace.snapshots import MAX_FILE_BYTES, MAX_FILES, MAX_PATH_BYTES, Folder
from leafe_verl.sandbox import File, Files, Link
from leafe_verl.sandbox.soundness import imported_names, refuse_unsound

NAME = "workspace"
_MODE = re.compile(r"(?:0o?)?[0-7]{3}")


def parse_task(row: Mapping[str, Any], default_key: str | None) -> Task:
    """Return the task of a row {"text", "files", "imports", "fail_to_pass", "pass_to_pass"}.

    `files`: path -> text, or an object {"text", "mode"} or {"link"}; a mode is a string of octal digits, such as "755".
    `imports`: source that makes the names known that the hidden tests call; it runs beside the agent's code, which can
    change what it defines. `fail_to_pass`, `pass_to_pass`: hidden tests that fail and pass at first, as `judge` takes
    them.

    A reference `patch` of a row is left out of the task. Raises ValueError that says what came and what was expected.
    """
    fields = read_fields(row)
    text = fields.get("text")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"text is {text!r:.80}; expected the description of what is wrong")
    files = fields.get("files")
    if not isinstance(files, Mapping) or not files:
        raise ValueError(f"files is {files!r:.80}; expected an object of paths and texts")
    imports = read_source("imports", fields.get("imports"))
    data: dict[str, Any] = {"files": without_nulls(files), "imports": imports}
    _check_sizes(build_folder(data))
    for name in ("fail_to_pass", "pass_to_pass"):
        data[name] = read_strings(name, fields.get(name) or [])
        for test in data[name]:
            refuse_unsound(test, imported=imported_names(imports))
    if not data["fail_to_pass"]:
        raise ValueError("fail_to_pass is empty; expected at least one assert")
    return Task(task_key(fields, default_key), text, NAME, data)


def _check_sizes(folder: Folder) -> None:
    files = folder.files()
    if len(files) > MAX_FILES:
        raise ValueError(f"there are {len(files)} files; expected at most {MAX_FILES}")
    for path, entry in files.items():
        if isinstance(entry, File) and len(entry.content) > MAX_FILE_BYTES:
            raise ValueError(f"{path} has {len(entry.content)} bytes; expected at most {MAX_FILE_BYTES}")


def build_folder(data: Mapping[str, Any]) -> Folder:
    """Return the files of a task. Raises ValueError for what is none."""
    return Folder.of({path: _entry(path, each) for path, each in data["files"].items()})


def _entry(path: str, entry: Any) -> File | Link:
    if isinstance(entry, str):
        return File(entry.encode())
    if isinstance(entry, Mapping):
        entry = without_nulls(entry)
    if isinstance(entry, Mapping) and isinstance(entry.get("link"), str):
        target = entry["link"]
        if not 0 < len(target.encode()) <= MAX_PATH_BYTES or "\0" in target:
            raise ValueError(f"{path} links to {target!r:.80}; expected a path of 1 to {MAX_PATH_BYTES} bytes")
        return Link(target)
    if isinstance(entry, Mapping) and isinstance(entry.get("text"), str):
        return File(entry["text"].encode(), _mode(path, entry.get("mode", "644")))
    raise ValueError(f"{path} is {entry!r:.80}; expected a text, or an object with text and mode, or link")


def _mode(path: str, mode: Any) -> int:
    """Return permission bits. Of a number it could not be told whether its digits are octal or decimal."""
    if isinstance(mode, str) and _MODE.fullmatch(mode):
        return int(mode, 8)
    meant = f", and the number {mode} is {mode:o} in these" if type(mode) is int else ""
    raise ValueError(f'{path} has mode {mode!r:.80}; expected a string of three octal digits, such as "755"{meant}')


def pack_files(files: Files) -> dict[str, Any]:
    """Return files as a row has them. They must be text."""
    return {path: _packed(entry) for path, entry in files.items()}


def _packed(entry: File | Link) -> Any:
    if isinstance(entry, Link):
        return {"link": entry.target}
    text = entry.content.decode()
    return text if entry.mode == 0o644 else {"text": text, "mode": f"{entry.mode:03o}"}
