"""Which versions of verl the plugin takes. pyproject.toml names the same range, which a test compares."""

from __future__ import annotations

VERL = ">=0.9.1,<0.10"
"""The versions of verl that the plugin takes, as pip writes them."""
TESTED_VERL = "0.9.1"
"""The version that the plugin was written against and is tested with."""


def takes_verl(installed: str) -> bool:
    """Return whether a version of verl is within the range. What stands behind its numbers (rc1, .dev0) is ignored."""
    from packaging.specifiers import SpecifierSet  # comes with verl
    from packaging.version import InvalidVersion, Version

    try:
        return Version(installed).base_version in SpecifierSet(VERL)
    except InvalidVersion:
        return False
