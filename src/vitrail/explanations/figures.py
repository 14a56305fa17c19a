"""Figures: a picture beside what the model saw in it. The one plotting path of the package.

Built with matplotlib's objects alone (no pyplot, no global state), so that they can be drawn from any thread. Panels
are placed to the pixel: a panel has exactly the shape of its picture, square or not.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from matplotlib.text import Text
from PIL import Image
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.explanations.maps import Upsample, upsample_nearest
from vitrail.explanations.paint import ATTENTION_COLOURS, colour_map, overlay, top_of

INK = "#2b2b2b"
DPI = 200
TITLE_SIZE, LABEL_SIZE = 9.0, 7.0
GAP, MARGIN = 0.08, 0.05
"""Inches between panels, and around them."""
TITLE_ROOM, BAR_ROOM = 0.26, 0.36
"""Inches that a title above and a colour bar below need."""
LONGEST = 8.0
"""Inches that no side of a panel exceeds, however long and thin its picture is."""


@dataclass(frozen=True)
class Sheet:
    """A figure with panels in rows and columns; all have the same size.

    Attributes:
        figure: the figure.
        panels: axes by row and column.
    """

    figure: Figure
    panels: list[list[Axes]]


def make_figure(width: float, height: float) -> Figure:
    """An empty white figure of a size in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def add_panel(figure: Figure, left: float, top: float, size: tuple[float, float]) -> Axes:
    """A bare panel of a width and height, so many inches from the left and from the top."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, 1 - (top + size[1]) / height, size[0] / width, size[1] / height))
    axes.set_axis_off()
    return axes


def make_sheet(
    rows: int,
    columns: int,
    panel: tuple[float, float],
    gap: tuple[float, float] = (GAP, GAP),
    edges: tuple[float, float, float, float] = (MARGIN, MARGIN, MARGIN, MARGIN),
) -> Sheet:
    """Empty panels, exactly as large as asked.

    Args:
        rows: how many panels stand above each other.
        columns: how many stand side by side.
        panel: width and height of each, in inches.
        gap: between columns and between rows, in inches.
        edges: room at the left, right, top and bottom, in inches.
    """
    left, right, top, bottom = edges
    width = left + right + columns * panel[0] + (columns - 1) * gap[0]
    height = top + bottom + rows * panel[1] + (rows - 1) * gap[1]
    figure = make_figure(width, height)

    def place(row: int, column: int) -> Axes:
        return add_panel(figure, left + column * (panel[0] + gap[0]), top + row * (panel[1] + gap[1]), panel)

    return Sheet(figure, [[place(row, column) for column in range(columns)] for row in range(rows)])


def panel_size(width: int, height: int, side: float) -> tuple[float, float]:
    """Inches of a panel of a picture's shape that covers as much as a square of ``side`` inches."""
    ratio = (width / height) ** 0.5
    shrink = min(1.0, LONGEST / (side * max(ratio, 1 / ratio)))
    return _whole_pixels(side * ratio * shrink), _whole_pixels(side / ratio * shrink)


def _whole_pixels(inches: float) -> float:
    # A panel that ends between two pixels gets a blurred edge.
    return max(1, round(inches * DPI)) / DPI


def show(axes: Axes, pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> None:
    """Fill a panel with pixels; its coordinates become those of a picture of ``(height, width)``, from the top left."""
    smaller = pixels.shape[0] < size[0]
    axes.imshow(
        pixels,
        extent=(0, size[1], size[0], 0),
        aspect="auto",
        interpolation="nearest" if smaller else "antialiased",
    )


def draw_grid(figure: Figure, axes: Axes, grid: tuple[int, ...], size: tuple[int, int]) -> None:
    """Patch borders over a panel that shows a picture of ``(height, width)``."""
    (rows, columns), (height, width) = grid, size
    inches = axes.get_position().width * figure.get_size_inches()[0]
    # Borders get finer with the patches, so that a 37 × 37 grid does not veil its picture.
    line = float(np.clip(inches * 72 / columns * 0.05, 0.25, 0.8))
    across = [((0.0, height * i / rows), (float(width), height * i / rows)) for i in range(1, rows)]
    down = [((width * i / columns, 0.0), (width * i / columns, float(height))) for i in range(1, columns)]
    axes.add_collection(LineCollection([*across, *down], colors="white", alpha=0.22, linewidths=line), autolim=False)


def mark_patch(axes: Axes, patch: tuple[int, ...], grid: tuple[int, ...], size: tuple[int, int]) -> None:
    """Frame one patch, ``(row, column)``: the one whose view is shown."""
    height, width = size[0] / grid[0], size[1] / grid[1]
    frame = Rectangle(
        (patch[1] * width, patch[0] * height), width, height, fill=False, edgecolor="white", linewidth=1.2
    )
    frame.set_path_effects([Stroke(linewidth=2.6, foreground="black"), Normal()])
    frame.set_clip_on(False)
    axes.add_patch(frame)


def two_panel(
    picture: Image.Image,
    values: Float[Tensor, "h w"],
    title: str = "",
    legend: str = "attention per patch",
    patch: tuple[int, int] | None = None,
    upsample: Upsample = upsample_nearest,
    side: float = 3.2,
) -> Figure:
    """The picture, and beside it the map over the picture with the patch grid drawn.

    Args:
        picture: as the model saw it (resized and cropped), at any resolution of the same shape.
        values: the map on the patch grid, ``(H, W)``; shares of one row of attention, that is, they sum to at most 1.
        title: above the panels; none when empty.
        legend: label of the colour bar below the map; no bar when empty.
        patch: ``(row, column)`` of the patch whose view this is, framed in both panels; None for the class token.
        upsample: nearest for exact patches, bilinear for a smooth look.
        side: inches of a square panel; others cover as much.
    """
    size = (picture.height, picture.width)
    top = top_of(values)
    # Without any text the panels fill the figure: whoever embeds it sets the margins.
    margin = MARGIN if title or legend else 0.0
    edges = (margin, margin, TITLE_ROOM if title else margin, BAR_ROOM if legend else margin)
    sheet = make_sheet(1, 2, panel_size(picture.width, picture.height, side), edges=edges)
    plain, painted = sheet.panels[0]
    show(plain, np.asarray(picture.convert("RGB")), size)
    show(painted, overlay(picture, values, top, upsample), size)
    draw_grid(sheet.figure, painted, tuple(values.shape), size)
    if patch is not None:
        for axes in (plain, painted):
            mark_patch(axes, patch, tuple(values.shape), size)
    if title:
        add_title(sheet.figure, title)
    if legend:
        clipped = bool((values > top * (1 + 1e-6)).any())
        add_colour_bar(sheet.figure, painted, ("0", legend, f"{'≥ ' if clipped else ''}{100 * top:.2g} %"))
    return sheet.figure


def head_grid(
    picture: Image.Image,
    maps: Float[Tensor, "heads h w"],
    title: str = "",
    side: float = 1.6,
    labels: Sequence[str] | None = None,
) -> Figure:
    """One overlay per head, each on its own scale, so that quiet heads show their pattern as well.

    Args:
        picture: as the model saw it.
        maps: one for each head, or for whatever else ``labels`` say.
        title: above; none when empty.
        side: inches of a square overlay.
        labels: one for each map; the heads' numbers when None.
    """
    count = len(maps)
    columns = min(count, 4 if count % 4 == 0 or count > 6 else 3)
    rows = -(-count // columns)
    panel = panel_size(picture.width, picture.height, side)
    edges = (MARGIN, MARGIN, 0.44 if title else 0.2, MARGIN)
    sheet = make_sheet(rows, columns, panel, gap=(GAP, 0.2), edges=edges)
    panels = [axes for row in sheet.panels for axes in row]
    for number, (axes, values) in enumerate(zip(panels, maps, strict=False)):
        show(axes, overlay(picture, values), (picture.height, picture.width))
        label = f"head {number}" if labels is None else labels[number]
        axes.set_title(label, fontsize=LABEL_SIZE, color=INK, pad=2.5, loc="left", parse_math=False)
    if title:
        add_title(sheet.figure, title)
    return sheet.figure


def layer_head_grid(
    maps: Float[Tensor, "layers heads h w"], layers: Sequence[int] | None = None, title: str = "", side: float = 0.72
) -> Figure:
    """Every layer (a row, first on top) and head (a column) as a bare map, each on its own scale.

    Args:
        maps: one map per layer and head.
        layers: the layers' numbers; 0, 1 … when None.
        title: above; none when empty.
        side: inches of a square map.
    """
    count, heads, height, width = maps.shape
    numbers = range(count) if layers is None else layers
    edges = (0.52, MARGIN, 0.46 if title else 0.22, MARGIN)
    sheet = make_sheet(count, heads, panel_size(width, height, side), gap=(0.03, 0.03), edges=edges)
    for row, number in enumerate(numbers):
        for head, axes in enumerate(sheet.panels[row]):
            show(axes, colour_map(maps[row, head]), (height, width))
            if row == 0:
                axes.set_title(f"head {head}", fontsize=LABEL_SIZE, color=INK, pad=2.5)
        row_label(sheet.panels[row][0], f"layer {number}")
    if title:
        add_title(sheet.figure, title)
    return sheet.figure


def add_title(figure: Figure, title: str) -> None:
    """A line above everything; cut in its middle when it is wider than the figure."""
    width, height = figure.get_size_inches()
    place = (MARGIN / width, 1 - 0.06 / height)
    line = figure.text(*place, title, fontsize=TITLE_SIZE, color=INK, ha="left", va="top", parse_math=False)
    room = (width - 2 * MARGIN) * figure.dpi
    needed = line.get_window_extent().width
    if needed > room:
        kept = max(4, int(len(title) * room / needed) - 2)
        line.set_text(f"{title[: kept - kept // 2]}…{title[len(title) - kept // 2 :]}")


def row_label(axes: Axes, label: str) -> None:
    """A word at the left of a panel."""
    axes.annotate(
        label,
        (0, 0.5),
        xytext=(-3, 0),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=LABEL_SIZE,
        color=INK,
        annotation_clip=False,
    )


def add_colour_bar(
    figure: Figure, under: Axes, texts: tuple[str, str, str], colours: Colormap = ATTENTION_COLOURS
) -> None:
    """A slim bar under a panel, with words at its beginning, in its middle and at its end."""
    height = figure.get_size_inches()[1]
    box = under.get_position()
    bottom = box.y0 * height
    bar = figure.add_axes((box.x0, (bottom - 0.125) / height, box.width, 0.055 / height))
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=colours, aspect="auto", interpolation="bilinear")
    bar.set_axis_off()
    for x, text, side in zip((0.0, 0.5, 1.0), texts, ("left", "center", "right"), strict=True):
        place = box.x0 + x * box.width
        y = (bottom - 0.17) / height
        figure.text(place, y, text, fontsize=LABEL_SIZE, color=INK, ha=side, va="top", parse_math=False)


def save(figure: Figure, path: Path, dpi: int = DPI) -> Path:
    """Write a figure; the suffix (``.png``, ``.pdf``, ``.svg`` …) says how. The folder is made when missing.

    Raises:
        VitrailError: for a suffix that matplotlib cannot write, or a file that cannot be written.
    """
    kinds = figure.canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in kinds:
        raise VitrailError(f"figures cannot be written as {path.name!r}: use one of .{', .'.join(sorted(kinds))}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=dpi)
    except OSError as error:
        raise VitrailError(f"{path}: the figure cannot be written ({error.strerror or error})") from error
    return path


def with_ink(figure: Figure, colour: str) -> Figure:
    """All words of a figure in one colour; changes the figure."""
    for words in figure.findobj(Text):
        words.set_color(colour)
    return figure


def to_image(figure: Figure, dpi: int = DPI, background: str | None = "white") -> Image.Image:
    """A figure as pixels, RGBA; ``background=None`` leaves it clear. The figure itself is not changed."""
    buffer = io.BytesIO()
    colour = "none" if background is None else background
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=colour, pil_kwargs={"compress_level": 1})
    return Image.open(buffer).convert("RGBA")
