"""Chunks of trees: JSON that is deflated and base64-encoded, so that HTML needs no escaping.

A chunk holds several trees because neighbouring trees share much of their prompts, and because a page with ten
thousand elements loads more slowly than one with a few hundred.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any, BinaryIO

from leafe_verl.report.sources import Vocabulary

CHUNK_SIZE = 128 * 1024
"""Characters of JSON after which a chunk is closed. The page inflates and parses this much in a few milliseconds."""


def to_json(value: Any) -> str:
    """Return JSON that is safe in a script element: no `<`, `>` or `&`; ASCII, since text may hold lone surrogates."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    # These characters occur only inside JSON strings, where the escape means the same. `&` matters to XML parsers,
    # `>` closes "-->".
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def deflate(text: str) -> str:
    """Compress ASCII text into the form that the page reads with atob and DecompressionStream("deflate")."""
    return base64.b64encode(zlib.compress(text.encode("ascii"))).decode("ascii")


def inflate(chunk: str) -> Any:
    """Return the JSON value that a chunk holds."""
    return json.loads(zlib.decompress(base64.b64decode(chunk)))


class ChunkWriter:
    """Writes each full chunk to a file as an element `<script type="application/json" id="chunk-0">`."""

    def __init__(self, file: BinaryIO, size: int = CHUNK_SIZE) -> None:
        self._file, self._size = file, size
        self._trees: list[str] = []
        self._length = 0
        self._pieces: dict[int, str] = {}
        self.number = 0
        """Number of the chunk being filled."""

    def add(self, record: dict[str, Any], tokens: set[int], vocabulary: Vocabulary | None) -> tuple[int, int]:
        """Add a tree and the tokens its record contains. Return the number of its chunk and its position there."""
        if self._length >= self._size:
            self.flush()
        text = to_json(record)
        self._trees.append(text)
        self._length += len(text)
        if vocabulary:
            self._pieces.update({token: vocabulary(token) for token in tokens - self._pieces.keys()})
        return self.number, len(self._trees) - 1

    def flush(self) -> None:
        """Write the chunk being filled, if it holds any trees."""
        if not self._trees:
            return
        text = f'{{"trees":[{",".join(self._trees)}],"pieces":{to_json(self._pieces)}}}'
        element = f'<script type="application/json" id="chunk-{self.number}">{deflate(text)}</script>\n'
        self._file.write(element.encode("ascii"))
        self._trees, self._length, self._pieces = [], 0, {}
        self.number += 1
