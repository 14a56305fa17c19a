"""A picture beside its most probable classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from vitrail.contracts import VitrailError
from vitrail.explanations.figures import GAP, INK, LABEL_SIZE, MARGIN, make_sheet, panel_size, show

BAR, TRACK = "#3b6fb6", "#e8ebf0"
ROW, WIDE = 0.3, 3.0
"""Inches from bar to bar, and of the longest bar."""
SHOWN = 40
"""Letters of a label; longer ones are cut in their middle."""


def label_bars(picture: Image.Image, labels: Sequence[str], confidences: Sequence[float], side: float = 3.2) -> Figure:
    """The picture, and beside it a bar for each label, most probable first.

    Args:
        picture: of any size.
        labels: names of the classes, in the order drawn.
        confidences: their probabilities, 0 … 1; they need not sum to one.
        side: inches of a square picture; others cover as much.

    Raises:
        VitrailError: no labels, or another number of confidences.
    """
    if not labels or len(labels) != len(confidences):
        raise VitrailError(f"{len(labels)} labels and {len(confidences)} confidences cannot be drawn")
    panel = panel_size(picture.width, picture.height, side)
    needed = ROW * len(labels)
    edges = (MARGIN, 3 * GAP + WIDE, MARGIN, MARGIN + max(0.0, needed - panel[1]))
    sheet = make_sheet(1, 1, panel, edges=edges)
    show(sheet.panels[0][0], np.asarray(picture.convert("RGB")), (picture.height, picture.width))
    width, height = sheet.figure.get_size_inches()
    left, bottom = MARGIN + panel[0] + 2 * GAP, height - MARGIN - needed
    bars = sheet.figure.add_axes((left / width, bottom / height, WIDE / width, needed / height))
    bars.set_axis_off()
    bars.set_xlim(0, 1)
    bars.set_ylim(len(labels) - 0.5, -0.5)
    places = np.arange(len(labels), dtype=float)
    bars.barh(places + 0.22, np.ones(len(labels)), height=0.2, color=TRACK)
    bars.barh(places + 0.22, np.clip(confidences, 0, 1), height=0.2, color=BAR)
    for place, label, confidence in zip(places, labels, confidences, strict=True):
        style = {"fontsize": LABEL_SIZE, "color": INK, "va": "bottom", "parse_math": False}
        bars.text(0.0, place + 0.08, _shorten(label), ha="left", **style)
        bars.text(1.0, place + 0.08, f"{100 * confidence:.1f} %", ha="right", **style)
    return sheet.figure


def _shorten(label: str) -> str:
    half = SHOWN // 2
    return label if len(label) <= SHOWN else f"{label[: half - 1]}…{label[-half:]}"
