"""Draws Pass@k over k on a logarithmic axis, as an SVG file and as a small chart of characters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

from leafe_verl.evaluation.bootstrap import Estimate

Curves = Mapping[str, Mapping[int, Estimate]]
"""Name of the evaluation -> k -> Pass@k."""

# Shade, dash and marker all differ, so that the lines can be told apart in black and white.
_STYLES = (("black", "-", "o"), ("0.45", "--", "s"), ("0.25", "-.", "^"), ("0.6", ":", "D"), ("0.1", (0, (5, 1)), "v"))
_CHARACTERS = "ox+*#@"


def draw_curves(curves: Curves, path: Path) -> None:
    """Write the curves with their interval bands to `path`. Raises ValueError that names the extra to install."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(_install_hint("the picture needs matplotlib", error)) from None
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for (name, curve), (shade, dash, marker) in zip(curves.items(), itertools.cycle(_STYLES), strict=False):
        ks = sorted(curve)
        axes.plot(ks, [100 * curve[k].mean for k in ks], color=shade, linestyle=dash, marker=marker, label=name)
        low, high = ([100 * value for value in side] for side in _band(curve))
        axes.fill_between(ks, low, high, color=shade, alpha=0.15, linewidth=0)
    ks = _all_ks(curves)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.set(xlabel="k", ylabel="Pass@k, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="svg")


def text_curves(curves: Curves, width: int = 72, height: int = 18) -> str:
    """Return the chart without colour. Raises ValueError that names the extra to install if plotext is missing."""
    try:
        import plotext
    except ImportError as error:
        raise ValueError(_install_hint("the chart in the terminal needs plotext", error)) from None
    plotext.clear_figure()
    plotext.plotsize(width, height)
    plotext.title("Pass@k, %")
    for (name, curve), character in zip(curves.items(), itertools.cycle(_CHARACTERS), strict=False):
        ks = sorted(curve)
        plotext.plot([math.log2(k) for k in ks], [100 * curve[k].mean for k in ks], marker=character, label=name)
    ks = _all_ks(curves)
    plotext.xticks([math.log2(k) for k in ks], [str(k) for k in ks])
    plotext.ylim(0, 100)
    return str(plotext.uncolorize(plotext.build()))


def _band(curve: Mapping[int, Estimate]) -> tuple[list[float], list[float]]:
    return [curve[k].low for k in sorted(curve)], [curve[k].high for k in sorted(curve)]


def _all_ks(curves: Curves) -> list[int]:
    return sorted({k for curve in curves.values() for k in curve})


def _install_hint(what: str, error: ImportError) -> str:
    return f"{what} ({error}); install it with: pip install 'leafe-verl[plots]'"
