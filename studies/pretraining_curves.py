"""The curves of studies/pretraining.py as one picture, every seed a line.

Run: python studies/pretraining_curves.py [--runs runs/ssl] [--out docs/images/pretraining.png]

Above the loss of each method, below what tells best that it learns: of MAE the share of held-out pictures that ten
nearest neighbours tell right, of BEiT the share of masked patches whose token it tells, of DINO how far teacher and
student are apart.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitrail.jobs.report.curves import read_curves

METHODS = {"mae": "val_knn", "beit": "accuracy", "dino": "kl"}
"""The column that stands below the loss."""
NAMES = {
    "mae": "MAE",
    "beit": "BEiT",
    "dino": "DINO",
    "loss": "loss",
    "val_knn": "held-out neighbours, share right",
    "accuracy": "masked tokens, share right",
    "kl": "KL(teacher ‖ student), nats",
}
COLOURS = ("#1b6ca8", "#c0532b", "#3d8b56")
"""Of the seeds."""


def draw(axes: Axes, runs: list[Path], column: str) -> None:
    """One column of metrics.csv, a line for every seed."""
    for run, colour in zip(runs, COLOURS, strict=False):
        steps, values = read_curves(run / "metrics.csv")[1][column]
        few = len(steps) < 20
        axes.plot(steps / 1000, values, color=colour, linewidth=1.2, marker="o" if few else "", markersize=3)
    axes.set_ylabel(NAMES[column], fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/ssl"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("docs/images/pretraining.png"))
    options = parser.parse_args()
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    above, below = figure.subplots(2, len(METHODS), sharex="col")
    for top, bottom, (method, column) in zip(above, below, METHODS.items(), strict=True):
        runs = [options.runs / f"{method}-{seed}" for seed in options.seeds]
        draw(top, runs, "loss")
        draw(bottom, runs, column)
        top.set_title(NAMES[method], fontsize=10)
        bottom.set_xlabel("thousand steps", fontsize=8)
    above[0].legend(above[0].lines, [f"seed {seed}" for seed in options.seeds], fontsize=8, frameon=False)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
