"""A confusion matrix as a figure and in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vitrail.jobs.report.svg import ACCENT, INK, MUTED, ON_ACCENT, RULE

NUMBERS_UP_TO = 16
NAMES_UP_TO = 40
LONGEST_NAME = 22
ON_LIGHT_AND_DARK = "#4d86bf"
LETTER = 0.082
"""Inches of a letter in a name, on the generous side: the page chooses the typeface."""


def shorten(name: str, longest: int = LONGEST_NAME) -> str:
    """A name cut in its middle, so that beginnings and ends stay readable."""
    if len(name) <= longest:
        return name
    head, tail = longest // 2, (longest - 1) // 2
    return f"{name[:head]}…{name[-tail:]}"


def _cell(count: int) -> float:
    """Inches of a cell: large while numbers stand in it, then so that the matrix stays as large as a hand."""
    if count <= NUMBERS_UP_TO:
        return 0.95 if count <= 3 else 0.62 if count <= 8 else 0.44
    return 0.17 if count <= NAMES_UP_TO else 5.5 / count


def _shade(axes: Axes, share: np.ndarray) -> None:
    """Cells as shapes in the page's colour; as one image where there would be thousands of them."""
    count = len(share)
    if count > NAMES_UP_TO:
        pixels = np.empty((count, count, 4))
        pixels[..., :3], pixels[..., 3] = to_rgb(ON_LIGHT_AND_DARK), share**0.5
        axes.imshow(pixels, extent=(0, count, count, 0), aspect="auto", interpolation="none")
        return
    for row, column in zip(*np.nonzero(share), strict=True):
        corner = (float(column), float(row))
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=ACCENT, alpha=0.06 + 0.94 * share[row, column], linewidth=0))


def draw_confusion(confusion: Int[np.ndarray, "k k"], classes: Sequence[str]) -> Figure:
    """Rows are the true classes, columns the predicted ones; shade is the share of the row.

    Counts are written up to 16 classes, names up to 40; beyond that the pattern alone is shown.
    """
    count = len(classes)
    rows = confusion.sum(axis=1, keepdims=True)
    share = confusion / np.maximum(rows, 1)
    names = [shorten(name) for name in classes] if count <= NAMES_UP_TO else []
    cell = _cell(count)
    room = max([0.5, *(LETTER * len(name) + 0.15 for name in names)])
    tilted = any(LETTER * len(name) > cell for name in names)
    above = 0.3 + (0.68 * room if tilted else 0.24)
    width = room + count * cell + (0.6 * room if tilted else 0.02)
    height = above + count * cell + 0.02
    figure = Figure(figsize=(width, height))
    box = (room / width, 0.02 / height, count * cell / width, count * cell / height)
    axes = figure.add_axes(box, xlim=(0, count), ylim=(count, 0))
    axes.set_axis_off()
    axes.add_patch(Rectangle((0, 0), count, count, fill=False, edgecolor=RULE, linewidth=1, clip_on=False))
    _shade(axes, share)
    if count <= NUMBERS_UP_TO:
        for (row, column), number in np.ndenumerate(confusion):
            colour = MUTED if not number else ON_ACCENT if share[row, column] > 0.55 else INK
            axes.text(column + 0.5, row + 0.5, f"{number:,}", color=colour, fontsize=9, ha="center", va="center")
    size = 9 if count <= NUMBERS_UP_TO else 7
    for place, name in enumerate(names):
        axes.text(-0.08 / cell, place + 0.5, name, color=INK, fontsize=size, ha="right", va="center", parse_math=False)
        axes.text(
            place + 0.5,
            -0.08 / cell,
            name,
            color=INK,
            fontsize=size,
            ha="left" if tilted else "center",
            va="bottom",
            rotation=40 if tilted else 0,
            rotation_mode="anchor",
            parse_math=False,
        )
    figure.text(room / width, 1 - 0.02 / height, "predicted →", color=MUTED, fontsize=8, ha="left", va="top")
    figure.text((room - 0.08) / width, 1 - 0.02 / height, "true ↓", color=MUTED, fontsize=8, ha="right", va="top")
    return figure


def most_confused(
    confusion: Int[np.ndarray, "k k"], classes: Sequence[str], count: int = 5
) -> list[tuple[str, str, int, float]]:
    """The commonest errors: true class, predicted class, how often, and what share of the true class that is."""
    errors = confusion.copy()
    np.fill_diagonal(errors, 0)
    order = np.argsort(errors, axis=None, kind="stable")[::-1][:count]
    found = [divmod(int(place), len(classes)) for place in order]
    return [
        (
            classes[true],
            classes[predicted],
            int(errors[true, predicted]),
            errors[true, predicted] / confusion[true].sum(),
        )
        for true, predicted in found
        if errors[true, predicted]
    ]
