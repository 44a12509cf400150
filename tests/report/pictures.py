"""Take pictures of a report: python tests/report/pictures.py REPORT.html FOLDER [FRAGMENT...].

Writes front, or the given fragments (`tree-0-1-2`: tree, attempt, step), in light and in dark.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import sync_playwright


def take_pictures(report: Path, folder: Path, fragments: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        for scheme in ("light", "dark"):
            for fragment in fragments or ("front",):
                page = browser.new_page(color_scheme=scheme, viewport={"width": 1200, "height": 800})
                page.goto(f"{report.resolve().as_uri()}#{fragment}")
                page.wait_for_selector(".picture" if fragment.startswith("tree-") else "table.tasks tbody tr")
                page.screenshot(path=folder / f"{fragment}-{scheme}.png", full_page=fragment.startswith("tree-"))
                page.close()


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
