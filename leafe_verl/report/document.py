"""Writes the report: template, styles, scripts and data in one document, under a strict Content-Security-Policy.

    head        policy and styles
    body        the empty page, `<script type="application/json" id="overview">` and `id="index"`, the scripts,
                and last the chunks of trees, so that the overview shows before the long part has loaded

Data never becomes markup: JSON is held in script elements of a type that browsers do not run, with every `<` escaped.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, BinaryIO

from leafe_verl.core.recovery_figures import count_recovery, plain_attempts
from leafe_verl.core.statistics import count, total
from leafe_verl.report.chunks import ChunkWriter, to_json
from leafe_verl.report.overview import build_overview
from leafe_verl.report.records import COLUMNS, RESULTS, build_record, build_row
from leafe_verl.report.runs import find_runs
from leafe_verl.report.sources import ReportedRun

STYLES = ("report.css", "tree.css", "print.css")
SCRIPTS = ("dom.js", "chart.js", "overview.js", "tasks.js", "diff.js", "picture.js", "step.js", "report.js")
"""Scripts in order of dependency: each uses only earlier ones."""


def report(folders: Sequence[Path], out: Path | None = None) -> int:
    """Write the report on the runs in `folders`, print its path, and return 0.

    `out` is a file, or a folder in which report.html is written; by default the first of `folders`. Raises ValueError
    if a folder holds nothing to report, or the report cannot be written.
    """
    runs = find_runs(folders)
    out = out or folders[0]
    out = out / "report.html" if out.is_dir() else out
    try:
        trees = write_report(runs, out)
    except OSError as error:
        raise ValueError(f"{out} cannot be written ({error.strerror}); name another place with --out") from error
    print(f"written: {out} ({trees:,} {'tree' if trees == 1 else 'trees'}, {out.stat().st_size / 1e6:.1f} MB)")
    return 0


def write_report(runs: Sequence[ReportedRun], out: Path) -> int:
    """Write the report and return its number of trees. The file is replaced atomically."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.{os.getpid()}")
    try:
        with tempfile.TemporaryFile() as chunks:
            gathered = _gather(runs, chunks)
            chunks.seek(0)
            with partial.open("wb") as file:
                head, tail = build_page(gathered.overviews, gathered.rows)
                file.write(head.encode("utf-8"))
                shutil.copyfileobj(chunks, file)
                file.write(tail.encode("utf-8"))
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return len(gathered.rows)


@dataclass
class _Gathered:
    """What is known of all runs after their trees have been read."""

    rows: list[list[Any]] = field(default_factory=list)
    overviews: list[dict[str, Any]] = field(default_factory=list)


def _gather(runs: Sequence[ReportedRun], file: BinaryIO) -> _Gathered:
    """Read all trees once. Their chunks go to the file; their rows and the runs' overviews stay in memory."""
    writer, gathered = ChunkWriter(file), _Gathered()
    for number, run in enumerate(runs):
        counts: dict[str, float] = {}
        for reported in run.trees:
            record, tokens = build_record(reported)
            chunk, place = writer.add(record, tokens, run.vocabulary)
            gathered.rows.append(build_row(reported, number, chunk, place))
            recovery = count_recovery(plain_attempts(reported.tree))
            counts = total([counts, {**count(reported.tree, reported.examples), **recovery}])
        gathered.overviews.append(build_overview(run, counts if run.counts is None else run.counts))
    writer.flush()
    return gathered


def build_page(overviews: Sequence[dict[str, Any]], rows: Sequence[Sequence[Any]]) -> tuple[str, str]:
    """Return the parts of the document before and after the chunks."""
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
    """Return a policy that allows exactly these styles and scripts, and nothing else."""
    return (
        f"default-src 'none'; style-src {' '.join(map(source_hash, styles))}; "
        f"script-src {' '.join(map(source_hash, scripts))}; base-uri 'none'; form-action 'none'"
    )


def source_hash(text: str) -> str:
    """Return a text's hash as a Content-Security-Policy source."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def _asset(name: str) -> str:
    return resources.files("leafe_verl.report").joinpath("page", name).read_text(encoding="utf-8")
