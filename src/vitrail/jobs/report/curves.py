"""``metrics.csv`` as curves."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vitrail.contracts import VitrailError
from vitrail.jobs.report.svg import ACCENT, INK, MUTED, RULE, SECOND

NOT_CURVES = frozenset({"epoch", "step", "lr", "grad_norm", "images_per_s"})
SMOOTH_ABOVE = 60
"""Rows from which a loss is drawn faint, with its running mean on top."""

Curve = tuple[np.ndarray, np.ndarray]
"""Places on the x axis, and values."""


def read_curves(path: Path) -> tuple[str, dict[str, Curve]]:
    """The columns of a ``metrics.csv``, each with the rows in which it has a finite number.

    Returns:
        What the x axis counts (``"step"``, or ``"epoch"`` where there are no steps), and the curves by name.

    Raises:
        VitrailError: the file is missing, has neither column, or holds something that is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise VitrailError(f"{path} cannot be read: {error.strerror}") from error
    names = list(rows[0]) if rows else []
    axis = next((name for name in ("step", "epoch") if name in names), None)
    if rows and axis is None:
        raise VitrailError(f"{path} has neither a column 'step' nor 'epoch' but {', '.join(map(str, names))}")
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number, row in enumerate(rows, start=2):
        for name in names:
            try:
                x, y = float(row[axis or ""]), float(row[name] or "nan")
            except (TypeError, ValueError) as error:
                raise VitrailError(f"{path}, line {number}: {name} is {row[name]!r}, not a number") from error
            if math.isfinite(y):
                points[name].append((x, y))
    arrays = {name: np.array(pairs).reshape(-1, 2) for name, pairs in points.items()}
    return axis or "step", {name: (array[:, 0], array[:, 1]) for name, array in arrays.items() if len(array)}


def draw_curves(path: Path, alone: Collection[str] = ()) -> dict[str, Figure]:
    """One figure each for the losses, the held-out scores and the learning rate; those that have no rows are left out.

    The best value of the first held-out score is marked.

    Args:
        path: the ``metrics.csv``.
        alone: columns on a scale of their own, each in a figure by itself.

    Raises:
        VitrailError: as :func:`read_curves`.
    """
    axis, curves = read_curves(path)
    joined = {n: c for n, c in curves.items() if n not in alone}
    losses = {n: c for n, c in joined.items() if n not in NOT_CURVES and (not n.startswith("val_") or "loss" in n)}
    scores = {n: c for n, c in joined.items() if n.startswith("val_") and "loss" not in n}
    rates = {n: c for n, c in joined.items() if n == "lr"}
    groups = {"Loss": losses, "Held-out score": scores}
    groups |= {_title(n): {n: c} for n, c in curves.items() if n in alone}
    groups |= {"Learning rate": rates}
    end = max((float(x[-1]) for group in groups.values() for x, _ in group.values()), default=0.0)
    return {title: _draw(title, axis, group, end) for title, group in groups.items() if group}


def _draw(title: str, axis: str, group: Mapping[str, Curve], end: float) -> Figure:
    figure = Figure(figsize=(3.3, 2.4), layout="constrained")
    axes = figure.add_subplot()
    _dress(axes, title, axis)
    _draw_group(axes, group)
    # One x axis for all figures, so that what happens at the same time stands at the same place.
    axes.set_xlim(-0.03 * end, 1.05 * end or 1.0)
    if title == "Held-out score":
        _mark_best(axes, group)
    if title == "Learning rate":
        axes.yaxis.set_major_formatter(FuncFormatter(_short_power))
        axes.set_ylim(bottom=0)
    return figure


def _dress(axes: Axes, title: str, axis: str) -> None:
    axes.set_title(title, loc="left", fontsize=9.5, color=INK, pad=8)
    axes.set_xlabel(axis, fontsize=8, color=MUTED)
    axes.tick_params(labelsize=8, labelcolor=MUTED, color=RULE, length=0, pad=4)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)


STYLES = ((ACCENT, "-"), (SECOND, "-"), (MUTED, "-"), (ACCENT, "--"), (SECOND, "--"), (MUTED, "--"))


def _draw_group(axes: Axes, group: Mapping[str, Curve]) -> None:
    for (name, (x, y)), (colour, dashes) in zip(group.items(), _cycle(len(group)), strict=True):
        marker = "o" if len(x) <= 30 else ""
        if len(x) >= SMOOTH_ABOVE and not name.startswith("val_"):
            axes.plot(x, y, color=colour, linestyle=dashes, linewidth=0.8, alpha=0.28)
            y, marker = running_mean(y, max(3, len(y) // 30)), ""
        axes.plot(x, y, color=colour, linestyle=dashes, linewidth=1.6, marker=marker, markersize=3, label=_spoken(name))
    if len(group) > 1:
        legend = axes.legend(frameon=False, fontsize=8, labelcolor=MUTED, handlelength=1.4, borderaxespad=0.2)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _cycle(count: int) -> Sequence[tuple[str, str]]:
    return [STYLES[number % len(STYLES)] for number in range(count)]


def _title(name: str) -> str:
    plain = "gradient norm" if name == "grad_norm" else _spoken(name)
    return plain[:1].upper() + plain[1:]


def _spoken(name: str) -> str:
    # A label that begins with an underscore would be left out of the legend.
    held_out = name.startswith("val_")
    plain = name.removeprefix("val_").replace("_", " ").strip() or name
    return f"{plain}, held out" if held_out and "loss" in name else plain


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over ``window`` values centred on each; shorter at the ends, so that nothing is lost or shifted."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    reach = np.minimum(np.minimum(places, len(values) - 1 - places), window // 2)
    return (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)


def _mark_best(axes: Axes, group: Mapping[str, Curve]) -> None:
    """Write the best value beside its point, for the first score (accuracy, usually)."""
    x, y = next(iter(group.values()))
    best = int(y.argmax())
    axes.margins(y=0.16)
    axes.plot(
        x[best], y[best], marker="o", markersize=6, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1
    )
    axes.annotate(
        f"{y[best]:.4f}".rstrip("0").rstrip(".") if abs(y[best]) < 100 else f"{y[best]:.4g}",
        (x[best], y[best]),
        xytext=(0, 7),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=INK,
    )


def _short_power(value: float, _position: int | None = None) -> str:
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(value)))
    if -3 <= power <= 3:
        return f"{value:g}"
    return f"{value / 10**power:.3g}e{power}"
