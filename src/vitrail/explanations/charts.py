"""Charts of heads and tokens: how far heads look, how long tokens are. Drawn for paper, or in the colours of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.explanations.figures import DPI, INK
from vitrail.explanations.reach import LayerReach, diagonal


@dataclass(frozen=True)
class ChartColours:
    """What a chart is drawn in.

    Attributes:
        ink, muted, rule: of words, of lesser words, of lines.
        accent, second: of what is shown, and of what stands out from it.
        paper: of the background; none when None.
    """

    ink: str = INK
    muted: str = "#6b6861"
    rule: str = "#d9d5cb"
    accent: str = "#2f5d8c"
    second: str = "#b3541e"
    paper: str | None = "white"


PRINT = ChartColours()
"""Dark on white."""

SPREAD = 0.28
"""How far to either side the points of a layer's heads are set apart, in layers."""


def reach_chart(
    reach: Sequence[LayerReach], size: tuple[int, int] | None = None, colours: ChartColours = PRINT, title: str = ""
) -> Figure:
    """Mean attention distance and entropy: a point for every head, layers from left to right, their mean as a line.

    As figure 7 (right) of ViT (Dosovitskiy et al. 2021). Pictures of a batch are averaged.

    Args:
        reach: of every layer (:func:`vitrail.explanations.measure_reach`).
        size: height and width of the picture in pixels; says how much of it a distance is, when given.
        colours: what it is drawn in.
        title: above; none when empty.

    Raises:
        VitrailError: no layers.
    """
    if not reach:
        raise VitrailError("there are no layers to draw")
    figure, (left, right) = _figure(2, title, colours)
    layers = [layer.layer for layer in reach]
    _heads(left, layers, [layer.distance for layer in reach], colours)
    _heads(right, layers, [layer.entropy for layer in reach], colours)
    _dress(left, "layer", "mean attention distance, pixels", colours)
    _dress(right, "layer", "entropy, nats", colours)
    for axes in (left, right):
        axes.set_xlim(min(layers) - 0.6, max(layers) + 0.6)
        axes.margins(y=0.08)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    if size is not None:
        whole = diagonal(size)
        share = left.secondary_yaxis(
            "right", functions=(lambda y: np.multiply(y, 100 / whole), lambda y: np.multiply(y, whole / 100))
        )
        share.set_ylabel("% of the diagonal", fontsize=8, color=colours.muted)
        share.tick_params(labelsize=8, labelcolor=colours.muted, length=0, pad=4)
        share.spines["right"].set_visible(False)
    return figure


def norm_chart(
    norms: Float[Tensor, " n"],
    outliers: Bool[Tensor, " n"],
    prefix: int = 0,
    limit: float | None = None,
    colours: ChartColours = PRINT,
    title: str = "",
    class_token: bool = True,
) -> Figure:
    """How long the tokens of one picture are: patches as a histogram, outliers in another colour, prefix tokens marked.

    Args:
        norms: of all tokens, prefix first (:func:`vitrail.explanations.token_norms`).
        outliers: which of them stand out (:func:`vitrail.explanations.outlier_tokens`).
        prefix: leading tokens that are no patches: the class token, then registers.
        class_token: whether the first of them is a class token; otherwise all are registers.
        limit: norm from which a patch stands out; drawn where it lies in sight.
        colours: what it is drawn in.
        title: above; none when empty.
    """
    figure, (axes,) = _figure(1, title, colours)
    patches, marked = norms[prefix:].numpy(), outliers[prefix:].numpy()
    low, high = float(norms.min()), float(norms.max())
    room = 0.04 * (high - low) or 0.5
    edges = np.linspace(low - room, high + room, 61).tolist()
    axes.hist(patches[~marked], bins=edges, color=colours.accent, label=f"{(~marked).sum():,} patches")
    if marked.any():
        # A few among thousands would be too low to see.
        axes.set_yscale("log")
        label = f"{marked.sum():,} outliers"
        axes.hist(patches[marked], bins=edges, color=colours.second, label=label)
    for number, norm in enumerate(norms[:prefix].tolist()):
        register = number - class_token
        kind, name = ("v", "class token") if register < 0 else ("s", "_more" if register else "registers")
        axes.plot(
            norm,
            0.03,
            marker=kind,
            color=colours.ink,
            markersize=6,
            linestyle="none",
            label=name,
            transform=axes.get_xaxis_transform(),
        )
    if limit is not None and limit < high + room:
        axes.axvline(limit, color=colours.second, linewidth=1, linestyle="--")
    _dress(axes, "norm of a token before the final norm", "patches", colours)
    axes.legend(frameon=False, fontsize=8, labelcolor=colours.muted, handlelength=1.2, borderaxespad=0.2)
    return figure


def _figure(columns: int, title: str, colours: ChartColours) -> tuple[Figure, list[Axes]]:
    figure = Figure(
        figsize=(3.9 * columns, 2.75),
        dpi=DPI,
        layout=ConstrainedLayoutEngine(wspace=0.06),
        facecolor=colours.paper or "none",
    )
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=9, color=colours.ink, parse_math=False)
    return figure, [figure.add_subplot(1, columns, column + 1) for column in range(columns)]


def _heads(axes: Axes, layers: Sequence[int], values: Sequence[Tensor], colours: ChartColours) -> None:
    means = []
    for layer, heads in zip(layers, values, strict=True):
        points = heads.mean(dim=0).sort().values.numpy()
        # Side by side by size, so that heads that look equally far do not hide each other.
        places = layer + (np.linspace(-SPREAD, SPREAD, len(points)) if len(points) > 1 else np.zeros(1))
        axes.plot(places, points, marker="o", markersize=3.4, linestyle="none", color=colours.accent, alpha=0.85)
        means.append(points.mean())
    axes.plot(layers, means, color=colours.second, linewidth=1.2, zorder=1)


def _dress(axes: Axes, below: str, beside: str, colours: ChartColours) -> None:
    axes.set_facecolor("none")
    axes.set_xlabel(below, fontsize=8, color=colours.muted)
    axes.set_ylabel(beside, fontsize=8, color=colours.muted)
    axes.tick_params(labelsize=8, labelcolor=colours.muted, color=colours.rule, length=0, pad=4)
    axes.grid(axis="y", color=colours.rule, linewidth=0.6)
    axes.set_axisbelow(True)
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=beside == "patches"))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(colours.rule)
