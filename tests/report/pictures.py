"""Take pictures of a run's report: python tests/report/pictures.py RUN OUT [light|dark]

Writes OUT_overview.png, and OUT_tree.png: the tree of the most telling branch, with its revised step open.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from leafe_verl.report.document import report
from leafe_verl.report.runs import find_run
from leafe_verl.report.telling import most_telling, telling_branch

WIDTH = 1200
HEIGHTS = {"overview": 1330, "tree": 1560}
"""Pixels; a tree's begins with its picture and ends with the feedback."""
COLOURS = 128
"""Of a picture, which keeps its file small."""


def take_pictures(run: Path, out: Path, scheme: str = "light") -> None:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        written = Path(folder, "report.html")
        report([run], written)
        page = playwright.chromium.launch(executable_path=chromium).new_page(color_scheme=scheme)
        page.goto(written.as_uri())
        page.wait_for_selector("table.tasks tbody tr")
        _take(page, out, "overview")
        page.goto(f"{written.as_uri()}#{telling_place(run)}")
        page.wait_for_selector("section.step")
        _take(page, out, "tree")


def telling_place(run: Path) -> str:
    """The address of the revised step of the run's most telling branch."""
    told = {number: telling_branch(each.tree) for number, each in enumerate(find_run(run).trees)}
    (best,) = most_telling([branch for branch in told.values() if branch], 1)
    number = next(number for number, branch in told.items() if branch == best)
    return f"tree-{number}-{best.branch}-{best.step}"


def _take(page: Page, out: Path, name: str) -> None:
    page.set_viewport_size({"width": WIDTH, "height": HEIGHTS[name]})
    page.evaluate("scrollTo(0, 0)")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    path = out.with_name(f"{out.name}_{name}.png")
    picture.quantize(COLOURS).save(path, optimize=True)
    print(f"written: {path} ({path.stat().st_size / 1e3:.0f} KB)")


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
