"""What learning without labels is worth on Fashion-MNIST: fresh weights, MAE, DINO, BEiT, and pixels alone.

Run: python studies/pretraining.py [--seeds 0 1 2] [--out runs/ssl] [--methods mae dino beit]

Every method learns from the 60,000 training pictures by its recipe, all on one small ViT and at about the same cost
(the minutes are in the table, without the 13 of one core for BEiT's tokenizer, which serves all seeds). Measured on the
10,000 test pictures: nearest neighbours and a linear probe on all labels, and training on 1,000 labels from fresh
weights and from MAE's. Killed, the same command goes on: finished runs
are read, the unfinished one continues.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import vitrail
from vitrail.data import Source, open_data
from vitrail.jobs.pretrain_config import PretrainConfig
from vitrail.jobs.probe import ProbeConfig
from vitrail.jobs.train_config import TrainConfig
from vitrail.metrics import knn_probabilities
from vitrail.recipes import recipe_config

DATA = "fashion-mnist"
METHODS = {"mae": "fashion_mnist_mae", "dino": "fashion_mnist_dino", "beit": "fashion_mnist_beit"}
"""The recipe of each method."""
TOKENIZER = Path("runs/fashion-mnist-tokenizer")
"""Where BEiT's recipe looks for it."""
SIDE = 28
"""Of the pictures that are probed, whatever size the crops had."""
FRESH = "fresh"
"""The start from MAE's architecture with fresh weights."""
LABELS = 1000
FINE_TUNED = (FRESH, "mae")
"""The starts that are also trained on so few labels."""
COLUMNS = ("linear probe", "nearest neighbours", f"{LABELS:,} labels", "minutes")


def read(folder: Path) -> dict[str, Any] | None:
    """The figures of a finished run."""
    file = folder / "metrics.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def pretrained(method: str, seed: int, out: Path) -> Path:
    """The folder of a finished pretraining."""
    if method == "beit":
        by_recipe("fashion_mnist_tokenizer", 0, TOKENIZER)
    return by_recipe(METHODS[method], seed, out / f"{method}-{seed}")


def by_recipe(name: str, seed: int, folder: Path) -> Path:
    """The folder of a finished run of a recipe."""
    if read(folder) is None:
        config = recipe_config(name)
        assert isinstance(config, PretrainConfig), f"{name} is no pretraining"
        vitrail.pretrain(replace(config, seed=seed, out=folder))
    return folder


def probed(model: Path, weights: bool, seed: int, out: Path) -> dict[str, Any]:
    """Nearest neighbours and linear probe of a run's model, with its weights or with fresh ones."""
    if read(out) is None:
        config = ProbeConfig(
            data=DATA, model=str(model), pretrained=weights, image_size=SIDE, crop=1.0, seed=seed, out=out
        )
        vitrail.probe(config)
    found = read(out)
    assert found is not None
    return found


def on_few_labels(model: Path, weights: bool, seed: int, out: Path) -> dict[str, Any]:
    """A training on some of the labels; the same pictures for every start of a seed."""
    if read(out) is None:
        vitrail.train(
            TrainConfig(
                data=DATA,
                model=str(model),
                pretrained=weights,
                train_limit=LABELS,
                crop=1.0,
                epochs=80,
                batch_size=50,
                lr=1e-3,
                layer_decay=0.75 if weights else 1.0,
                ema_decay=0.99,
                crop_scale=(0.7, 1.0),
                randaugment=None,
                mixup=0.0,
                cutmix=0.0,
                erasing=0.0,
                eval_every=80,
                workers=0,
                report=False,
                seed=seed,
                out=out,
            )
        )
    found = read(out)
    assert found is not None
    return found


def on_pixels(out: Path) -> float:
    """Ten nearest neighbours on the pixels themselves."""
    file = out / "pixels.json"
    if not file.exists():
        splits = open_data(DATA)

        def pixels(source: Source) -> torch.Tensor:
            return torch.stack([source.pixels(i).flatten() for i in range(len(source))]).float()

        labels = torch.from_numpy(splits.train.labels)
        votes = knn_probabilities(pixels(splits.train), labels, pixels(splits.val), len(splits.train.classes))
        right = (votes.argmax(dim=1) == torch.from_numpy(splits.val.labels)).double().mean()
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"accuracy": float(right)}))
    return json.loads(file.read_text())["accuracy"]


def measure(start: str, seed: int, out: Path) -> list[float | None]:
    """The columns of one start and seed."""
    weights = start != FRESH
    run = pretrained(start if weights else "mae", seed, out)
    probe = probed(run, weights, seed, out / f"probe-{start}-{seed}")
    few = on_few_labels(run, weights, seed, out / f"few-{start}-{seed}")["accuracy"] if start in FINE_TUNED else None
    minutes = read(run)["seconds"] / 60 if weights else 0.0  # type: ignore[index]  # it has finished
    scores = (probe["linear"]["accuracy"], probe["knn"]["accuracy"], few)
    return [*(None if score is None else 100 * score for score in scores), minutes]


def cell(column: tuple[float | None, ...]) -> str:
    """Mean and spread of one figure over the seeds."""
    values = [value for value in column if value is not None]
    if not values:
        return ""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {spread:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/ssl"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    neighbours = on_pixels(options.out)
    starts = [FRESH, *options.methods]
    # Seed by seed, so that an interrupted study has compared all starts on the seeds it finished.
    found = {(start, seed): measure(start, seed, options.out) for seed in options.seeds for start in starts}
    table = Table("start", *COLUMNS, title=f"{DATA}, per cent right, mean ± spread over seeds")
    for start in starts:
        rows = [found[start, seed] for seed in options.seeds]
        table.add_row(start, *(cell(column) for column in zip(*rows, strict=True)))
    Console().print(table, f"nearest neighbours on pixels: {100 * neighbours:.2f} %")


if __name__ == "__main__":
    main()
