"""A report in headless Chromium, which tests run where they are asked for alone, and the usual temporary folder."""

from __future__ import annotations

import os
import shutil

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def pytest_addoption(parser):
    parser.addoption("--costly", action="store_true", help="also run tests marked costly, which take minutes each")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--costly"):
        for item in items:
            if item.get_closest_marker("costly"):
                item.add_marker(pytest.mark.skip(reason="takes minutes; --costly runs it"))


@pytest.fixture(autouse=True)
def usual_temporary_folder(request, monkeypatch):
    """Ray refuses a long one, and so does the preflight, which says nothing else of a run that is valid."""
    if "end_to_end" not in request.keywords:
        for variable in ("RAY_TMPDIR", "TMPDIR"):
            monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is missing; pip install leafe-verl[browser] and install Chromium"
    )
    if not CHROMIUM:
        pytest.skip("Chromium is missing; apt-get install chromium, or set CHROMIUM")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM)


@pytest.fixture
def opened(browser):
    """Opens a report; whatever the console says, and whatever is asked of the network, fails the test."""
    contexts, said = [], []

    def open_page(path, fragment="", **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
        page.goto(path.as_uri() + fragment)
        page.wait_for_selector("#tasks-heading", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
