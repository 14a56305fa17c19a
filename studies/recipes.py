"""Recipes against each other over several seeds: mean and spread of the held-out accuracy, and the time each took.

Run: python studies/recipes.py elpv_long elpv_plain --seeds 0 1 2 --out runs/study

The split is the same for all runs (split_seed); the seed draws head, order and augmentation. Killed, the same command
goes on: finished runs are read, the unfinished one continues.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

import vitrail
from vitrail.recipes import recipe_config


def measure(recipe: str, seed: int, out: Path) -> dict[str, float]:
    """The figures of one finished run, trained first where there is none yet."""
    metrics = out / f"{recipe}-{seed}" / "metrics.json"
    if not metrics.exists():
        config = recipe_config(recipe)
        assert isinstance(config, vitrail.TrainConfig), f"{recipe} trains nothing"
        vitrail.train(replace(config, seed=seed, out=metrics.parent))
    return json.loads(metrics.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    options = parser.parse_args()
    table = Table("recipe", "accuracy, %", "mean ± spread", "minutes")
    # Seed by seed, so that an interrupted study has compared all recipes on the seeds it finished.
    runs = {(recipe, seed): measure(recipe, seed, options.out) for seed in options.seeds for recipe in options.recipes}
    for recipe in options.recipes:
        scores = [100 * runs[recipe, seed]["accuracy"] for seed in options.seeds]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        minutes = statistics.mean(runs[recipe, seed]["seconds"] / 60 for seed in options.seeds)
        each = " ".join(f"{score:.2f}" for score in scores)
        table.add_row(recipe, each, f"{statistics.mean(scores):.2f} ± {spread:.2f}", f"{minutes:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
