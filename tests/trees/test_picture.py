"""The picture of a tree where no browser draws it."""

import math
import sys

import pytest

from leafe_verl.trees.picture import LEVELS, AttemptShape, build_shape, draw_shape
from report.samples import hostile, rescued, wandered


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def drawn(figure):
    """What stands where: (x, y, marker, colour) of every mark."""
    lines = [line for line in figure.axes[0].lines if line.get_marker() != "None"]
    return [(line.get_xdata()[0], line.get_ydata()[0], line.get_marker(), line.get_color()) for line in lines]


def test_a_picture_has_a_mark_for_each_step_and_each_rollback_point():
    pytest.importorskip("matplotlib", reason="matplotlib is missing; pip install leafe-verl[plots]")
    figure = draw_shape(build_shape(rescued()))
    steps = [(1, 0), (2, 0), (3, 0), (4, 0), (2, 1), (3, 1)]
    assert [(x, y) for x, y, marker, _ in drawn(figure) if marker == "o"] == steps
    assert [(x, y) for x, y, marker, _ in drawn(figure) if marker == "D"] == [(1.5, 0)]
    assert {"✗ horizon", "✓ success", "step 4", "#1", "3"} <= set(texts(figure))


def test_branches_from_different_attempts_come_down_beside_each_other():
    pytest.importorskip("matplotlib", reason="matplotlib is missing; pip install leafe-verl[plots]")
    roots = [AttemptShape(None, 1, [0.0, 0.0], [True, False], "horizon")] * 2
    branches = [AttemptShape(parent, 2, [1.0], [False], "success") for parent in (0, 1)]
    figure = draw_shape([*roots, *branches])
    points = [(x, y) for x, y, marker, _ in drawn(figure) if marker == "D"]
    assert points == [(pytest.approx(1.45), 0), (pytest.approx(1.55), 1)]
    assert [marker for x, _, marker, _ in drawn(figure) if x == 1] == ["s", "s"]  # their feedback reports an error


@pytest.mark.parametrize("value, level", [(0.0, 0), (0.5, 2), (1.0, 4), (math.inf, 4), (-math.inf, 0), (math.nan, 0)])
def test_colours_tell_returns(value, level):
    pytest.importorskip("matplotlib", reason="matplotlib is missing; pip install leafe-verl[plots]")
    figure = draw_shape([AttemptShape(None, 1, [0.0, 1.0, value], [False] * 3, "failure")])
    assert drawn(figure)[2][3] == LEVELS[level]


@pytest.mark.parametrize("tree", [*map(wandered, range(6)), hostile()])
def test_trees_of_every_kind_are_drawn(tree):
    pytest.importorskip("matplotlib", reason="matplotlib is missing; pip install leafe-verl[plots]")
    figure = draw_shape(build_shape(tree))
    steps = sum(len(attempt.steps) for attempt in tree.attempts)
    assert sum(marker in "os" for _, _, marker, _ in drawn(figure)) == steps


def test_without_matplotlib_the_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"pip install 'leafe-verl\[plots\]'"):
        draw_shape(build_shape(rescued()))
