"""Trees in chunks: JSON, deflated, as base64, which HTML needs no escape for.

A chunk holds several trees, since those that stand beside each other repeat much of each other's prompts, and a page
of ten thousand elements is slower to read than one of some hundred.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any, BinaryIO

from leafe_verl.report.sources import Vocabulary

CHUNK_SIZE = 128 * 1024
"""Characters of JSON after which a chunk is closed; one of this size is inflated and parsed in some milliseconds."""


def to_json(value: Any) -> str:
    """JSON fit for a script element: without `<` or `&`, and in ASCII, since text may hold lone surrogates."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    # These stand inside strings alone, where the escape means the same. `&` for XML parsers, `>` for "-->".
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def deflate(text: str) -> str:
    """Return the text, which must be ASCII, as DecompressionStream("deflate") and atob read it."""
    return base64.b64encode(zlib.compress(text.encode("ascii"), 9)).decode("ascii")


def inflate(chunk: str) -> Any:
    """Return the JSON value of a chunk."""
    return json.loads(zlib.decompress(base64.b64decode(chunk)))


class ChunkWriter:
    """Writes chunks as elements `<script type="application/json" id="chunk-0">` to a file as they fill."""

    def __init__(self, file: BinaryIO, size: int = CHUNK_SIZE) -> None:
        self._file, self._size = file, size
        self._trees: list[str] = []
        self._length = 0
        self._pieces: dict[int, str] = {}
        self.number = 0
        """Of the chunk that the next tree goes to."""

    def add(self, record: dict[str, Any], tokens: set[int], vocabulary: Vocabulary | None) -> tuple[int, int]:
        """Add a tree with the tokens that its record names; return its chunk and its place therein."""
        if self._length >= self._size:
            self.flush()
        text = to_json(record)
        self._trees.append(text)
        self._length += len(text)
        if vocabulary:
            self._pieces.update({token: vocabulary(token) for token in tokens - self._pieces.keys()})
        return self.number, len(self._trees) - 1

    def flush(self) -> None:
        """Write what waits."""
        if not self._trees:
            return
        text = f'{{"trees":[{",".join(self._trees)}],"pieces":{to_json(self._pieces)}}}'
        element = f'<script type="application/json" id="chunk-{self.number}">{deflate(text)}</script>\n'
        self._file.write(element.encode("ascii"))
        self._trees, self._length, self._pieces = [], 0, {}
        self.number += 1
