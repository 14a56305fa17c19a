"""Pictures in rows under each other: the same samples seen in several ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from vitrail.explanations.figures import INK, LABEL_SIZE, MARGIN, make_sheet, panel_size, show


@dataclass(frozen=True)
class Strip:
    """One way of seeing samples.

    Attributes:
        title: what it shows, in a word or two.
        images: one a sample, of one shape, RGB.
    """

    title: str
    images: Sequence[Image.Image]


def draw_strips(strips: Sequence[Strip], side: float = 1.1) -> Figure:
    """Strips as rows, samples as columns, the title of a row at its left.

    Args:
        strips: with equally many images each.
        side: inches of a square panel; others cover as much.
    """
    first = strips[0].images[0]
    edges = (0.95, MARGIN, MARGIN, MARGIN)
    sheet = make_sheet(len(strips), len(strips[0].images), panel_size(first.width, first.height, side), edges=edges)
    for strip, row in zip(strips, sheet.panels, strict=True):
        for image, axes in zip(strip.images, row, strict=True):
            show(axes, np.asarray(image.convert("RGB")), (first.height, first.width))
        row[0].annotate(
            strip.title,
            (0, 0.5),
            xytext=(-5, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=LABEL_SIZE + 1,
            color=INK,
            annotation_clip=False,
        )
    return sheet.figure
