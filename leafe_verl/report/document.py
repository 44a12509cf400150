"""The report's file: template, style, scripts and data in one document, under a strict Content-Security-Policy.

    head        policy, style
    body        the empty page, `<script type="application/json" id="overview">` and `id="index"`, the scripts,
                then the chunks of trees: what is looked at first stands before what is long

No byte of data becomes markup: JSON stands in script elements of a type that no browser runs, with every `<` escaped.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, BinaryIO

from leafe_verl.core.statistics import count
from leafe_verl.report.chunks import ChunkWriter, to_json
from leafe_verl.report.overview import overview_of
from leafe_verl.report.records import COLUMNS, RESULTS, record_of, row_of
from leafe_verl.report.runs import find_runs
from leafe_verl.report.sources import Run

STYLES = ("report.css", "tree.css", "print.css")
SCRIPTS = ("dom.js", "chart.js", "overview.js", "tasks.js", "diff.js", "picture.js", "step.js", "report.js")
"""In the order in which they use each other."""


def report(folders: Sequence[Path], out: Path | None = None) -> int:
    """Write the report of the folders' runs, say where, and return 0; by default to the first folder.

    Raises ValueError for a folder that holds nothing to report.
    """
    runs = find_runs(folders)
    out = out or folders[0] / "report.html"
    trees = write_report(runs, out)
    print(f"written: {out} ({trees:,} {'tree' if trees == 1 else 'trees'}, {out.stat().st_size / 1e6:.1f} MB)")
    return 0


def write_report(runs: Sequence[Run], out: Path) -> int:
    """Write the report and return its number of trees. A killed process leaves an old file or the new one."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.{os.getpid()}")
    try:
        with tempfile.TemporaryFile() as chunks:
            gathered = _gather(runs, chunks)
            chunks.seek(0)
            with partial.open("wb") as file:
                head, tail = page(gathered.overviews, gathered.rows)
                file.write(head.encode("utf-8"))
                shutil.copyfileobj(chunks, file)
                file.write(tail.encode("utf-8"))
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return len(gathered.rows)


@dataclass
class _Gathered:
    rows: list[list[Any]] = field(default_factory=list)
    overviews: list[dict[str, Any]] = field(default_factory=list)


def _gather(runs: Sequence[Run], file: BinaryIO) -> _Gathered:
    """Go once through all trees: chunks to the file, their rows and the runs' overviews to memory."""
    writer, gathered = ChunkWriter(file), _Gathered()
    for number, run in enumerate(runs):
        counts: Counter[str] = Counter()
        for reported in run.trees:
            record, tokens = record_of(reported)
            chunk, place = writer.add(record, tokens, run.vocabulary)
            gathered.rows.append(row_of(reported, number, chunk, place))
            counts.update(count(reported.tree, reported.examples))
        gathered.overviews.append(overview_of(run, counts if run.counts is None else run.counts))
    writer.flush()
    return gathered


def page(overviews: Sequence[dict[str, Any]], rows: Sequence[Sequence[Any]]) -> tuple[str, str]:
    """Return the document before and behind the chunks."""
    style = "\n".join(_asset(name) for name in STYLES)
    scripts = [_asset(name) for name in SCRIPTS]
    index = {"columns": COLUMNS, "results": RESULTS, "rows": rows}
    text = Template(_asset("template.html")).substitute(
        policy=content_security_policy([style], scripts),
        style=style,
        overview=to_json(list(overviews)),
        index=to_json(index),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
        chunks="\0",
    )
    head, _, tail = text.partition("\0")
    return head, tail


def content_security_policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """Nothing from anywhere but these very styles and scripts."""
    return (
        f"default-src 'none'; style-src {' '.join(map(source_hash, styles))}; "
        f"script-src {' '.join(map(source_hash, scripts))}; base-uri 'none'; form-action 'none'"
    )


def source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def _asset(name: str) -> str:
    return resources.files("leafe_verl.report").joinpath("page", name).read_text(encoding="utf-8")
