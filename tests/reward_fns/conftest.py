"""Reward functions, loaded as verl loads them: from their file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

REWARD_FNS = Path(__file__).parents[2] / "reward_fns"


@pytest.fixture(scope="module")
def compute_score(request: pytest.FixtureRequest) -> Any:
    """`compute_score` of the file that the test's module is named after."""
    file = REWARD_FNS / f"{request.module.__name__.rpartition('test_')[2]}.py"
    spec = importlib.util.spec_from_file_location("custom_module", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.compute_score
