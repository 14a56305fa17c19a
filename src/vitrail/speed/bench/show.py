"""A comparison as a table of the terminal, and as a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from vitrail.speed.bench.comparison import Comparison, Row
from vitrail.speed.figure_file import write_figure

FIRST, OTHERS = "#1f5fa8", "#b9b4a8"
TITLE = 70
"""Characters of a line of a panel's title."""
COLUMNS = ("", "pictures/s", "ms a call", "takes", "error", "memory", "how")


def cells(row: Row, first: bool) -> tuple[str, ...]:
    """A row's figures as words, in the order of :data:`COLUMNS`."""
    return (
        row.name,
        f"{row.pictures_per_s:,.1f}",
        f"{1000 * row.median:,.1f}",
        "1" if first else f"{row.slower:.2f}x",
        "" if row.error is None else f"{row.error:.1e}",
        "" if row.memory is None else f"{row.memory:,.0f} MiB",
        row.notes,
    )


def table(comparison: Comparison) -> Table:
    """Everyone's figures."""
    shown = Table(title=comparison.title, title_justify="left", box=None, pad_edge=False)
    for column in COLUMNS:
        shown.add_column(column, justify="left" if column in ("", "how") else "right", no_wrap=column != "how")
    for number, row in enumerate(comparison.rows):
        shown.add_row(*cells(row, first=not number))
    return shown


def footnotes(comparison: Comparison) -> list[str]:
    """Who is missing, and what was measured where, with which command."""
    versions = ", ".join(f"{name} {version}" for name, version in comparison.versions.items())
    return [
        *(f"not here: {one.name} ({one.reason})" for one in comparison.missing),
        f"{comparison.machine}; threads: {comparison.threads}; {comparison.date}",
        versions,
        comparison.command,
    ]


def draw(comparisons: Sequence[Comparison], path: Path) -> Path:
    """Pictures per second as bars, a panel for each comparison.

    Raises:
        VitrailError: the file cannot be written.
    """
    heights = [1.1 + 0.32 * len(comparison.rows) for comparison in comparisons]
    figure = Figure(figsize=(7.6, sum(heights) + 0.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(comparisons), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, comparison in zip(panels, comparisons, strict=True):
        _bars(axes, comparison)
    figure.supxlabel(comparisons[0].machine, fontsize=7, color="#777777")
    return write_figure(figure, path)


def _bars(axes: Axes, comparison: Comparison) -> None:
    rates = [row.pictures_per_s for row in comparison.rows]
    places = range(len(rates))
    axes.barh(places, rates, color=[FIRST if not place else OTHERS for place in places], height=0.68)
    for place, row in zip(places, comparison.rows, strict=True):
        ratio = "" if not place else f"  (takes {row.slower:.2f}x as long)"
        axes.annotate(
            f"{row.pictures_per_s:,.1f}{ratio}",
            (row.pictures_per_s, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(places, [row.name for row in comparison.rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.45 * max(rates, default=1.0))
    axes.tick_params(axis="x", labelsize=7)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("pictures/s", fontsize=7)
    axes.set_title(textwrap.fill(comparison.title, TITLE), fontsize=9, loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
