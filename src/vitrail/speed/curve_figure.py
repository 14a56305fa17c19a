"""The figure of cost against resolution. By itself, so that only who draws waits for matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from vitrail.speed.curve import Curve
from vitrail.speed.figure_file import write_figure

COLOURS = ("#1f5fa8", "#c2452d", "#2e8b57", "#8c5fb0", "#b8860b", "#4d4d4d")


def draw_curves(curves: Sequence[Curve], path: Path) -> Path:
    """Two panels, multiply-adds and memory, both axes logarithmic: a straight line is a power of the side."""
    figure = Figure(figsize=(10.5, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for number, line in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        sides = [point.side for point in line.points]
        left.plot(sides, [point.macs / 1e9 for point in line.points], "o-", color=colour, label=line.name, ms=3.5)
        right.plot(sides, [point.fused / 2**20 for point in line.points], "o-", color=colour, label=line.name, ms=3.5)
        right.plot(sides, [point.plain / 2**20 for point in line.points], "--", color=colour, lw=1)
    _guides(left, curves)
    _finish(left, curves, "multiply-adds of one picture", "GMACs")
    _finish(right, curves, "inference memory of one picture (dashed: attention matrix built)", "MiB")
    left.legend(frameon=False, fontsize=8, loc="upper left")
    return write_figure(figure, path)


def _guides(axes: Axes, curves: Sequence[Curve]) -> None:
    """Slopes to compare with: linear and quadratic in the number of pixels."""
    ends = sorted({point.side for line in curves for point in line.points})
    if len(ends) < 2:
        return
    low = min(point.macs for line in curves for point in line.points) / 1e9
    for power, text in ((2, "∝ pixels"), (4, "∝ pixels²")):
        ys = [0.4 * low, 0.4 * low * (ends[-1] / ends[0]) ** power]
        axes.plot([ends[0], ends[-1]], ys, color="#999999", lw=0.8, ls=":")
        axes.annotate(text, (ends[-1], ys[1]), fontsize=7, color="#777777", ha="right", va="bottom")


def _finish(axes: Axes, curves: Sequence[Curve], title: str, unit: str) -> None:
    sides = sorted({point.side for line in curves for point in line.points})
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sides, [str(side) for side in sides], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("side of the picture in pixels")
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#eeeeee", lw=0.6)
