"""The limits of a step's later runs, such as the one that hidden tests have for themselves.

A program can find the calls of its run in a frame, and the agent is told what it raises in a shown one. So the calls of
hidden tests come in a second run, of which the agent is told nothing but how many tests fail.
"""

from __future__ import annotations

import time
from dataclasses import replace

from leafe_verl.sandbox import Limits

LEAST_SHARE = 0.25
"""Least share of a run's wall time that the hidden tests get. A queue of runs may have taken the rest."""


def limits_after(begun: float, limits: Limits) -> Limits:
    """Return what a later run of a step may use, if the first one began at the time `begun` of the monotonic clock.

    Judging is a run of the code and one of the checks, each of `wall_seconds`. A program that spent them on the shown
    tests and again on the hidden ones would take its step beyond `step_timeout`, and go unscored.
    """
    left = limits.wall_seconds - (time.monotonic() - begun) / 2
    return replace(limits, wall_seconds=max(left, LEAST_SHARE * limits.wall_seconds))
