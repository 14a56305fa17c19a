"""A thousand of scikit-learn's digits in memory, and how well features of them tell their class."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from vitrail.contracts import Batch, EpochLoader, Method
from vitrail.data import DigitsSource, Loader, Preprocess, SubsetSource
from vitrail.data.reading import PictureTransform
from vitrail.engine import EngineConfig, FitResult, fit
from vitrail.metrics import knn_probabilities
from vitrail.models import Plain

PREPROCESS = Preprocess(size=(8, 8), crop=1.0, mean=(0.3,), std=(0.38,))


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Normalised pictures ``(1000, 1, 8, 8)`` and their classes."""
    source = DigitsSource()
    images = PREPROCESS.batch([source.pixels(index) for index in range(1000)])
    return images, torch.from_numpy(source.labels[:1000])


@torch.no_grad()
def knn_accuracy(model: Plain) -> float:
    """Share of 300 digits whose 5 nearest neighbours among 700 others have their class, in the mean of the patches."""
    images, labels = digits()
    features = model.eval().features(images).patches.mean(dim=1)
    votes = knn_probabilities(features[:700], labels[:700], features[700:], 10, 5)
    return float((votes.argmax(dim=1) == labels[700:]).float().mean())


def digits_loader(transform: PictureTransform, batch_size: int = 50) -> Loader:
    """Shuffled batches of the first thousand digits."""
    return Loader(SubsetSource(DigitsSource(), range(1000)), transform, batch_size=batch_size)


class Cut:
    """The first batches of each epoch of a loader; with ``fail_at``, a run that is interrupted there.

    Args:
        loader: of more batches.
        batches: how many of an epoch there are.
        fail_at: ``(epoch, batch)`` in place of which an interrupt comes.
    """

    def __init__(self, loader: EpochLoader, batches: int, fail_at: tuple[int, int] | None = None) -> None:
        self.loader, self.batches, self.fail_at = loader, batches, fail_at

    def __len__(self) -> int:
        return self.batches

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for place, batch in zip(range(start, self.batches), self.loader.epoch(epoch, start), strict=False):
            if (epoch, place) == self.fail_at:
                raise KeyboardInterrupt
            yield batch


def train(out: Path, method: Method, loader: EpochLoader, **settings: Any) -> FitResult:
    """A short run in float32 on the CPU."""
    numbers: dict[str, Any] = {
        "epochs": 2,
        "lr": 2e-3,
        "min_lr": 0.0,
        "warmup_fraction": 0.1,
        "layer_decay": 1.0,
        "ema_decay": None,
        "precision": "fp32",
        "device": "cpu",
        "log_every": 2,
        **settings,
    }
    return fit(method, loader, EngineConfig(**numbers), out, console=Console(file=StringIO(), width=200))


def columns(out: Path) -> dict[str, list[float]]:
    """The numbers of ``metrics.csv`` by name."""
    with (out / "metrics.csv").open() as file:
        found = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in found if row[name]] for name in found[0]}
