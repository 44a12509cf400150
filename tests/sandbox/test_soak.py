"""A short form of soak.py, which runs for as long as one likes."""

from __future__ import annotations

from sandbox.soak import KINDS, soak

GROWTH_MIB = 32
"""Wide, since in so short a time caches still fill."""


def test_nothing_goes_wrong_under_mixed_load() -> None:
    report = soak(seconds=3)
    assert report.problems(GROWTH_MIB) == []
    assert set(report.runs) == set(KINDS)
