"""Figures of what patches are like: their colours, their likeness to one another, their positions, a clip's frames."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from PIL import Image
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.explanations.figures import (
    BAR_ROOM,
    GAP,
    INK,
    LABEL_SIZE,
    MARGIN,
    TITLE_ROOM,
    Sheet,
    add_colour_bar,
    add_panel,
    add_title,
    draw_grid,
    make_figure,
    make_sheet,
    mark_patch,
    panel_size,
    show,
)
from vitrail.explanations.maps import Upsample, upsample_nearest
from vitrail.explanations.paint import SIGNED_COLOURS, overlay, signed_colour_map, top_of
from vitrail.explanations.similarity import Pair

TILES = 8
"""Patches along a side whose position maps are drawn, at most."""


def colour_rows(
    pictures: Sequence[Image.Image], colours: Sequence[Float[Tensor, "h w 3"]], title: str = "", side: float = 3.2
) -> Figure:
    """A row for every picture: itself, and beside it its patches' colours.

    Args:
        pictures: as the model saw them; each may have a shape of its own.
        colours: one map of colours in 0 … 1 for each (:func:`vitrail.explanations.patch_colours`; for components that
            the pictures share, with :func:`vitrail.explanations.shared_basis`).
        title: above; none when empty.
        side: inches of a square panel.

    Raises:
        VitrailError: no pictures, or another number of maps.
    """
    if not pictures or len(pictures) != len(colours):
        raise VitrailError(f"{len(pictures)} pictures and {len(colours)} maps of colours cannot be drawn side by side")
    panels = [panel_size(picture.width, picture.height, side) for picture in pictures]
    sheet = _rows(panels, title)
    for row, picture, values in zip(sheet.panels, pictures, colours, strict=True):
        size = (picture.height, picture.width)
        show(row[0], np.asarray(picture.convert("RGB")), size)
        show(row[1], np.round(values.numpy() * 255).astype(np.uint8), size)
    return sheet.figure


def _rows(panels: Sequence[tuple[float, float]], title: str) -> Sheet:
    """Two panels in each row, every row as large as its own picture needs."""
    top = TITLE_ROOM if title else MARGIN
    width = 2 * MARGIN + GAP + 2 * max(panel[0] for panel in panels)
    height = top + MARGIN + sum(panel[1] for panel in panels) + GAP * (len(panels) - 1)
    figure = make_figure(width, height)
    rows = []
    for wide, high in panels:
        rows.append([add_panel(figure, left, top, (wide, high)) for left in (MARGIN, MARGIN + GAP + wide)])
        top += high + GAP
    if title:
        add_title(figure, title)
    return Sheet(figure, rows)


def similarity_panel(
    picture: Image.Image,
    values: Float[Tensor, "h w"],
    patch: tuple[int, int],
    other: Image.Image | None = None,
    grid: tuple[int, int] | None = None,
    title: str = "",
    legend: str = "cosine similarity",
    upsample: Upsample = upsample_nearest,
    side: float = 3.2,
) -> Figure:
    """The picture with one patch framed, and beside it how alike that patch is to all patches, there or elsewhere.

    Args:
        picture: where the patch is, as the model saw it.
        values: cosines (:func:`vitrail.explanations.patch_similarity`); 0 and less is dark, 1 brightest.
        patch: ``(row, column)``.
        other: the picture that ``values`` belong to, when it is another one.
        grid: of ``picture``; that of ``values`` when there is no other picture.
        title: above the panels; none when empty.
        legend: label of the colour bar; no bar when empty.
        upsample: nearest for exact patches, bilinear for a smooth look.
        side: inches of a square panel.
    """
    shown = other or picture
    margin = MARGIN if title or legend else 0.0
    panels = [panel_size(image.width, image.height, side) for image in (picture, shown)]
    edges = (margin, TITLE_ROOM if title else margin, BAR_ROOM if legend else margin)
    sheet = _beside(panels, edges)
    (left, right) = sheet.panels[0]
    show(left, np.asarray(picture.convert("RGB")), (picture.height, picture.width))
    mark_patch(left, patch, grid or tuple(values.shape), (picture.height, picture.width))
    show(right, overlay(shown, values.clamp(min=0), 1.0, upsample), (shown.height, shown.width))
    draw_grid(sheet.figure, right, tuple(values.shape), (shown.height, shown.width))
    if other is None:
        mark_patch(right, patch, tuple(values.shape), (shown.height, shown.width))
    if title:
        add_title(sheet.figure, title)
    if legend:
        add_colour_bar(sheet.figure, right, ("≤ 0", legend, "1"))
    return sheet.figure


def match_panel(
    one: Image.Image,
    other: Image.Image,
    pairs: Sequence[Pair],
    grids: tuple[tuple[int, int], tuple[int, int]],
    title: str = "",
    side: float = 3.2,
) -> Figure:
    """Two pictures with lines between patches that belong together, each line in a colour of its own.

    Args:
        one: a picture, as the model saw it.
        other: the other one, likewise.
        pairs: of :func:`vitrail.explanations.mutual_matches`.
        grids: of either picture.
        title: above; none when empty.
        side: inches of a square panel.
    """
    panels = [panel_size(image.width, image.height, side) for image in (one, other)]
    sheet = _beside(panels, (MARGIN, TITLE_ROOM if title else MARGIN, MARGIN))
    axes = sheet.panels[0]
    for place, image in zip(axes, (one, other), strict=True):
        show(place, np.asarray(image.convert("RGB")), (image.height, image.width))
    colours = matplotlib.colormaps["hsv"](np.linspace(0, 1, len(pairs), endpoint=False)) if pairs else []
    order = sorted(pairs, key=lambda pair: pair.one)
    for pair, colour in zip(order, colours, strict=True):
        ends = [
            ((patch[1] + 0.5) * image.width / grid[1], (patch[0] + 0.5) * image.height / grid[0])
            for patch, image, grid in zip((pair.one, pair.other), (one, other), grids, strict=True)
        ]
        line = ConnectionPatch(ends[0], ends[1], "data", axesA=axes[0], axesB=axes[1], color=colour, linewidth=0.8)
        sheet.figure.add_artist(line)
        for place, end in zip(axes, ends, strict=True):
            place.plot(
                end[0], end[1], marker="o", markersize=3.6, color=colour, markeredgecolor="white", markeredgewidth=0.5
            )
    for place, image in zip(axes, (one, other), strict=True):
        place.set(xlim=(0, image.width), ylim=(image.height, 0))
    if title:
        add_title(sheet.figure, title)
    return sheet.figure


def _beside(panels: Sequence[tuple[float, float]], edges: tuple[float, float, float]) -> Sheet:
    """One row of panels of their own sizes, in the middle of its height; ``edges`` around, above and below."""
    margin, top, bottom = edges
    width = 2 * margin + GAP * (len(panels) - 1) + sum(panel[0] for panel in panels)
    highest = max(panel[1] for panel in panels)
    figure = make_figure(width, top + bottom + highest)
    row, left = [], margin
    for wide, high in panels:
        row.append(add_panel(figure, left, top + (highest - high) / 2, (wide, high)))
        left += wide + GAP
    return Sheet(figure, [row])


def position_grid(similarity: Float[Tensor, "h w h w"], title: str = "", side: float = 4.6) -> Figure:
    """For patches across the picture: how alike their position is to every other one's.

    As figure 7 (middle) of ViT (Dosovitskiy et al. 2021). A large grid is drawn for at most 8 × 8 of its patches,
    evenly spread; every map shows all positions.

    Args:
        similarity: of :func:`vitrail.explanations.position_similarity`.
        title: above; none when empty.
        side: inches of a square grid.
    """
    rows, columns = similarity.shape[:2]
    chosen = [_spread(count) for count in (rows, columns)]
    width, height = panel_size(columns * len(chosen[1]), rows * len(chosen[0]), side)
    gap = 0.04
    panel = (width / len(chosen[1]), height / len(chosen[0]))
    edges = (0.34, MARGIN, (TITLE_ROOM if title else MARGIN) + 0.16, BAR_ROOM)
    sheet = make_sheet(len(chosen[0]), len(chosen[1]), panel, gap=(gap, gap), edges=edges)
    for row, r in zip(sheet.panels, chosen[0], strict=True):
        for axes, c in zip(row, chosen[1], strict=True):
            show(axes, signed_colour_map(similarity[r, c]), (rows, columns))
            if r == chosen[0][0]:
                axes.set_title(f"{c}", fontsize=LABEL_SIZE, color=INK, pad=2.5)
        row[0].text(
            -0.06, 0.5, f"{r}", transform=row[0].transAxes, fontsize=LABEL_SIZE, color=INK, ha="right", va="center"
        )
    if title:
        add_title(sheet.figure, title)
    under = sheet.figure.add_axes(_all_columns(sheet))
    under.set_axis_off()
    add_colour_bar(sheet.figure, under, ("-1", "cosine similarity of positions", "1"), SIGNED_COLOURS)
    return sheet.figure


def _spread(count: int) -> list[int]:
    return [round(float(place)) for place in np.linspace(0, count - 1, min(count, TILES))]


def _all_columns(sheet: Sheet) -> tuple[float, float, float, float]:
    """The place of the lowest row of panels, as one."""
    first, last = sheet.panels[-1][0].get_position(), sheet.panels[-1][-1].get_position()
    return (first.x0, first.y0, last.x1 - first.x0, first.height)


def frame_grid(
    frames: Sequence[Image.Image],
    maps: Float[Tensor, "t h w"],
    title: str = "",
    legend: str = "attention per patch",
    side: float = 1.5,
) -> Figure:
    """A clip's map, frame by frame: above the frames, below them the same with the map; all on one scale.

    Args:
        frames: one for each step of the map in time, in order.
        maps: ``(T, H, W)``, shares of one row of attention.
        title: above; none when empty.
        legend: label of the colour bar; no bar when empty.
        side: inches of a square frame.

    Raises:
        VitrailError: another number of frames than steps.
    """
    if len(frames) != len(maps):
        raise VitrailError(f"a map of {len(maps)} steps cannot be laid over {len(frames)} frames")
    columns = min(len(frames), 8)
    lines = -(-len(frames) // columns)
    panel = panel_size(frames[0].width, frames[0].height, side)
    edges = (MARGIN, MARGIN, (TITLE_ROOM if title else MARGIN) + 0.16, BAR_ROOM if legend else MARGIN)
    sheet = make_sheet(2 * lines, columns, panel, gap=(GAP, GAP), edges=edges)
    top = top_of(maps)
    for number, (frame, values) in enumerate(zip(frames, maps, strict=True)):
        line, column = divmod(number, columns)
        size = (frame.height, frame.width)
        plain, painted = sheet.panels[2 * line][column], sheet.panels[2 * line + 1][column]
        show(plain, np.asarray(frame.convert("RGB")), size)
        show(painted, overlay(frame, values, top), size)
        if line == 0:
            plain.set_title(f"{number}", fontsize=LABEL_SIZE, color=INK, pad=2.5)
    if title:
        add_title(sheet.figure, title)
    if legend:
        clipped = bool((maps > top * (1 + 1e-6)).any())
        under = sheet.figure.add_axes(_all_columns(sheet))
        under.set_axis_off()
        add_colour_bar(sheet.figure, under, ("0", legend, f"{'≥ ' if clipped else ''}{100 * top:.2g} %"))
    return sheet.figure


def query_grid(
    picture: Image.Image,
    maps: Float[Tensor, "q h w"],
    labels: Sequence[str],
    boxes: Float[Tensor, "q 4"] | None = None,
    points: Float[Tensor, "n 2"] | None = None,
    title: str = "",
    side: float = 2.6,
) -> Figure:
    """Where queries of a detector or of a prompt looked: one overlay each, on its own scale.

    Args:
        picture: as the model saw it.
        maps: cross-attention of each query on the picture's grid.
        labels: what each is.
        boxes: what each answered, ``(x0, y0, x1, y1)`` in the picture's pixels; drawn.
        points: what was clicked, ``(x, y)`` in the picture's pixels; drawn in all panels.
        title: above; none when empty.
        side: inches of a square panel.
    """
    count = len(maps)
    columns = min(count, 3)
    panel = panel_size(picture.width, picture.height, side)
    edges = (MARGIN, MARGIN, 0.44 if title else 0.2, MARGIN)
    sheet = make_sheet(-(-count // columns), columns, panel, gap=(GAP, 0.2), edges=edges)
    flat = [axes for row in sheet.panels for axes in row]
    accent = to_rgb("#7fe0c8")
    for number, (axes, values, label) in enumerate(zip(flat, maps, labels, strict=False)):
        show(axes, overlay(picture, values), (picture.height, picture.width))
        axes.set_title(label, fontsize=LABEL_SIZE, color=INK, pad=2.5, loc="left", parse_math=False)
        if boxes is not None:
            x0, y0, x1, y1 = boxes[number].tolist()
            axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=accent, linewidth=1.2)
        for x, y in [] if points is None else points.tolist():
            axes.plot(x, y, marker="*", markersize=7, color=accent, markeredgecolor="black", markeredgewidth=0.6)
        axes.set(xlim=(0, picture.width), ylim=(picture.height, 0))
    if title:
        add_title(sheet.figure, title)
    return sheet.figure
