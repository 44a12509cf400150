"""The report of a run that trained for real: LEAFE_RUN=RUN_DIR python -m pytest tests/report/test_real_run.py

tests/end_to_end reads the one of a tiny model's run in the same way.
"""

import os
from pathlib import Path

import pytest

from leafe_verl.report.document import report
from report.reading import read_through

pytestmark = pytest.mark.browser


def test_the_report_of_a_real_run_is_read(opened, tmp_path):
    if not (run := os.environ.get("LEAFE_RUN")):
        pytest.skip("no run is named; set LEAFE_RUN=RUN_DIR of a recipe")
    report([Path(run)], tmp_path / "report.html")
    read_through(opened, tmp_path / "report.html")
