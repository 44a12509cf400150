"""What the checks before a run look at on this machine, made the same on every machine."""

import pytest


@pytest.fixture(autouse=True)
def usual_temporary_folder(monkeypatch):
    """Ray refuses a long one, and so does the preflight."""
    for variable in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(variable, raising=False)
