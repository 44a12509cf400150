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
from playwright.sync_api import Locator, Page, sync_playwright

from leafe_verl.report.document import report
from leafe_verl.report.runs import find_run
from leafe_verl.trees.telling import most_telling, telling_branch

SIZE = {"width": 1200, "height": 900}


def take_pictures(run: Path, out: Path, scheme: str = "light") -> None:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        written = Path(folder, "report.html")
        report([run], written)
        page = playwright.chromium.launch(executable_path=chromium).new_page(color_scheme=scheme, viewport=SIZE)
        page.goto(written.as_uri())
        page.wait_for_selector("table.tasks tbody tr")
        _take(page, page.locator("table.tasks tbody tr").nth(3), out.with_name(f"{out.name}_overview.png"))
        page.goto(f"{written.as_uri()}#{telling_place(run)}")
        page.wait_for_selector("section.step")
        _take(page, page.locator(".exchange"), out.with_name(f"{out.name}_tree.png"))


def telling_place(run: Path) -> str:
    """The address of the revised step of the run's most telling branch."""
    told = {number: telling_branch(each.tree) for number, each in enumerate(find_run(run).trees)}
    (best,) = most_telling([branch for branch in told.values() if branch], 1)
    number = next(number for number, branch in told.items() if branch == best)
    return f"tree-{number}-{best.branch}-{best.step}"


def _take(page: Page, last: Locator, path: Path) -> None:
    """The page down to an element, in the few colours that keep a file small."""
    page.evaluate("scrollTo(0, 0)")
    box = last.bounding_box()
    shown = {"x": 0, "y": 0, "width": SIZE["width"], "height": box["y"] + box["height"] + 4}
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True, clip=shown))).convert("RGB")
    picture.quantize(method=Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
    print(f"written: {path} ({path.stat().st_size / 1e3:.0f} KB)")


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
