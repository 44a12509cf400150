"""The range of verl that the plugin takes."""

import re
from pathlib import Path

import pytest

from leafe_verl.versions import TESTED_VERL, VERL, takes_verl


@pytest.mark.parametrize("version", ["0.9.1", "0.9.2", "0.9.10", "0.9.1.post1", "0.9.2.dev0", TESTED_VERL])
def test_versions_within_the_range_are_taken(version):
    assert takes_verl(version)


@pytest.mark.parametrize("version", ["0.9.0", "0.8.4", "0.10.0", "0.10.0.dev0", "1.0", "0.90", "unknown", ""])
def test_others_are_not(version):
    assert not takes_verl(version)


def test_pyproject_names_the_same_range():
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    (dependencies,) = re.findall(r"^dependencies = (.*)$", project, re.M)
    assert f'"verl{VERL}"' in dependencies
