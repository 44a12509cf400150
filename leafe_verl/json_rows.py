"""Reading the objects of a JSON file: one to a line, in one array, or one after the other over several lines.

Files are UTF-8, with or without a byte order mark, or UTF-16 with one, and may be compressed by gzip.
"""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

ENDINGS = (".jsonl", ".json", ".ndjson")
"""Endings of JSON files, each of which may be followed by .gz."""
GZIP = b"\x1f\x8b"
WIDE = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order mark -> encoding. UTF-32's begins with UTF-16's, so it stands first."""
MISTAKEN = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself; fetch it with git lfs pull",
    b"<!doctype html": "a web page; download the file itself (the link 'raw' or 'download')",
    b"<html": "a web page; download the file itself (the link 'raw' or 'download')",
    b"pk\x03\x04": "a zip archive; unpack it",
    b"(\xb5/\xfd": "compressed by zstd; unpack it, or compress it by gzip",
    b"bzh": "compressed by bzip2; unpack it, or compress it by gzip",
    b"\xfd7zxz": "compressed by xz; unpack it, or compress it by gzip",
}
"""Beginning of a file in lower case -> what the file is."""

FIELDS = ("prompt", "messages")
"""Fields of a row that are a list of objects in usual forms of rows, and may be its only one."""

Row = Mapping[str, Any] | ValueError
"""A row, or why it cannot be read."""


@dataclass(frozen=True)
class Rows:
    """The rows of a file."""

    numbered: Iterable[tuple[int, Row]]
    """A row's number, counted from 1, and the row."""
    unit: str = "row"
    """What the numbers count: `line` where each row has a line of its own, blank lines counted, else `row`."""


def is_json(path: Path) -> bool:
    """Return whether the file's name ends as a JSON file's does."""
    name = path.name.lower().removesuffix(".gz")
    return name.endswith(ENDINGS)


def read_json_rows(path: Path) -> Rows:
    """Return the rows of a JSON file.

    A row that cannot be read is a ValueError in its place. Raises ValueError, with the file's name and the line, if
    the file as a whole cannot be read.
    """
    first = next((line for line in _lines(path) if line.strip()), b"")
    if not first or isinstance(_json_row(first), dict):
        return Rows(_rows_of_lines(path), "line")
    try:
        values = _values(b"".join(_lines(path)).decode("utf-8"))
    except UnicodeDecodeError:
        return Rows(_rows_of_lines(path), "line")
    except json.JSONDecodeError as error:
        if _opens_a_longer_value(first):
            raise ValueError(
                f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}); fix this place. Expected "
                "an array of objects, or one object per line"
            ) from None
        return Rows(_rows_of_lines(path), "line")
    is_array = len(values) == 1 and isinstance(values[0], list)
    rows = ((number, _checked(value)) for number, value in enumerate(values[0] if is_array else values, start=1))
    return Rows(list(rows if is_array else _unless_wrapped(rows)))


def refuse_mistaken(path: Path) -> None:
    """Raise ValueError if the file is something else that often stands in a data file's place."""
    try:
        with path.open("rb") as file:
            head = file.read(200).lstrip().lower()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    for beginning, what in MISTAKEN.items():
        if head.startswith(beginning):
            raise ValueError(f"{path} is {what}")


def _rows_of_lines(path: Path) -> Iterator[tuple[int, Row]]:
    rows = ((number, _json_row(line)) for number, line in enumerate(_lines(path), start=1) if line.strip())
    return _unless_wrapped(rows)


def _unless_wrapped(rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
    """Yield the rows. A single one that only holds a list of objects is refused, since those are the rows."""
    first, second = next(rows, None), next(rows, None)
    if first is not None:
        yield first if second is not None else (first[0], _unless_wrapper(first[1]))
    if second is not None:
        yield second
    yield from rows


def _unless_wrapper(row: Row) -> Row:
    if isinstance(row, ValueError) or len(row) != 1:
        return row
    ((name, inner),) = row.items()
    if name in FIELDS or not (isinstance(inner, list) and inner and isinstance(inner[0], dict)):
        return row
    return ValueError(
        f"an object whose {name!r} is a list of {len(inner)} objects, and nothing else is in the file; expected the "
        f"objects themselves: jq -c '.{name}[]' writes them one per line"
    )


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the file's lines in UTF-8 without a byte order mark."""
    try:
        with path.open("rb") as raw, gzip.open(raw) if _is_compressed(raw) else raw as file:
            head = file.readline()
            encoding = next((name for mark, name in WIDE.items() if head.startswith(mark)), None)
            if encoding:
                text = (head + file.read()).decode(encoding)
                yield from text.encode("utf-8").splitlines(keepends=True)
                return
            yield from _without_mark(head)
            yield from file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} has a byte order mark of {error.encoding} but is not; save it as UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}); expected a whole file: copy or download it anew") from None


def _is_compressed(file: BinaryIO) -> bool:
    beginning = file.read(len(GZIP))
    file.seek(0)
    return beginning == GZIP


def _without_mark(line: bytes) -> Iterator[bytes]:
    line = line.removeprefix(codecs.BOM_UTF8)
    if line:
        yield line


def _values(text: str) -> list[Any]:
    """Return the JSON values that stand one after the other in a text. Raises JSONDecodeError."""
    decoder, values, place = json.JSONDecoder(), [], 0
    while (place := _next_place(text, place)) < len(text):
        try:
            value, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:  # an integer of thousands of digits, or deep nesting
            raise json.JSONDecodeError(str(error), text, place) from None
        values.append(value)
    return values


def _next_place(text: str, place: int) -> int:
    """Return where the next value begins: behind white space, and behind byte order marks of joined files."""
    while place < len(text) and text[place] in " \t\r\n\ufeff":
        place += 1
    return place


def _opens_a_longer_value(line: bytes) -> bool:
    """Return whether a first line that is no JSON begins an array, or an object that goes on below."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return line.lstrip().startswith(b"[") or line.strip() == b"{"
    return False


def _json_row(line: bytes) -> Row:
    try:
        text = line.decode("utf-8").strip().lstrip("\ufeff")
    except UnicodeDecodeError as error:
        return ValueError(f"byte {error.start + 1} is not UTF-8; save the file as UTF-8: {line[:60]!r}")
    try:
        return _checked(json.loads(text))
    except (ValueError, RecursionError) as error:
        return ValueError(f"not JSON ({error}): {text[:80]!r}; expected one object per line, or an array of objects")


def _checked(value: Any) -> Row:
    """Return the row, or what is wrong with it."""
    if not isinstance(value, dict):
        return ValueError(f"a JSON {type(value).__name__} ({value!r:.60}); expected an object")
    return value
