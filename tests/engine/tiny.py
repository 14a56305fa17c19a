"""Tiny methods and a stateless loader that train in milliseconds."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from vitrail.contracts import Batch, EpochLoader, Method, Progress, Role
from vitrail.engine import EngineConfig, FitResult, fit

CLASSES = 3


class Mlp(nn.Module):
    """Two layers, a norm with a buffer, optional dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 8)
        self.norm = nn.BatchNorm1d(8) if dropout else nn.LayerNorm(8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(torch.tanh(self.norm(self.embed(images.flatten(1))))))


class TinyMethod(Method):
    """Cross-entropy on :class:`Mlp`."""

    def __init__(self, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = Mlp(dropout)

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        assert batch.labels is not None
        logits = self.model(batch.images)
        loss = nn.functional.cross_entropy(logits, batch.labels)
        return {"loss": loss, "logit_size": logits.square().mean()}

    def roles(self) -> dict[str, Role]:
        depths = {"embed": 0, "norm": 1, "head": 2}
        return {
            name: Role(depths[name.split(".")[1]], parameter.ndim > 1)
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    def export(self) -> nn.Module:
        return self.model


class TinyLoader:
    """``batches`` batches an epoch of ``size`` pictures (the last of ``last``); a function of (epoch, place) only."""

    def __init__(self, batches: int = 6, size: int = 4, last: int | None = None, rank: int = 0, world: int = 1) -> None:
        self.batches, self.size, self.last = batches, size, size if last is None else last
        self.rank, self.world = rank, world
        self.starts: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self.batches

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        self.starts.append((epoch, start))
        for place in range(start, self.batches):
            yield self.batch(epoch, place)

    def batch(self, epoch: int, place: int) -> Batch:
        count = self.last if place == self.batches - 1 else self.size
        total = count * self.world
        generator = torch.Generator().manual_seed(1000 * epoch + place)
        mine = slice(self.rank * count, (self.rank + 1) * count)
        images = torch.randn(total, 3, 2, 2, generator=generator)[mine]
        labels = torch.randint(CLASSES, (total,), generator=generator)[mine]
        names = tuple(f"e{epoch}-b{place}-{number}.png" for number in range(total))[mine]
        return Batch(images, labels, torch.arange(total)[mine], names)


def tiny_config(**changes: object) -> EngineConfig:
    """A short run with everything on that is cheap."""
    settings: dict = {
        "epochs": 3,
        "lr": 0.05,
        "min_lr": 1e-3,
        "warmup_lr": 1e-4,
        "warmup_fraction": 0.2,
        "precision": "fp32",
        "device": "cpu",
        "checkpoint_every_s": None,
        "log_every": 4,
    }
    return EngineConfig(**{**settings, **changes})


def quiet() -> Console:
    """A console that nobody sees; its text is in ``console.file``."""
    return Console(file=StringIO(), width=1000)


def train(
    out: Path,
    config: EngineConfig | None = None,
    method: Method | None = None,
    loader: EpochLoader | None = None,
    **rest: object,
) -> FitResult:
    """``fit`` with tiny parts where none are given."""
    parts: dict = {"console": quiet(), **rest}
    method = TinyMethod() if method is None else method
    return fit(method, TinyLoader() if loader is None else loader, config or tiny_config(), out, **parts)


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all tensors of a module."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    """Bit-equal, tensor by tensor."""
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), f"{name}: {(left[name] - right[name]).abs().max()}"


def assert_close(left: dict[str, Tensor], right: dict[str, Tensor], atol: float = 1e-6) -> None:
    """Equal within rounding."""
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(
            left[name], right[name], atol=atol, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


def accuracy(loader: TinyLoader) -> Callable[[nn.Module], dict[str, float]]:
    """An evaluation on one fixed batch."""

    def evaluate(model: nn.Module) -> dict[str, float]:
        batch = loader.batch(999, 0)
        return {"accuracy": float((model(batch.images).argmax(1) == batch.labels).float().mean())}

    return evaluate


class At(TinyLoader):
    """Calls ``act(batch)`` when a certain batch is made."""

    def __init__(self, epoch: int, place: int, act: Callable[[Batch], object], **sizes: int) -> None:
        super().__init__(**sizes)
        self.moment, self.act = (epoch, place), act

    def batch(self, epoch: int, place: int) -> Batch:
        batch = super().batch(epoch, place)
        if (epoch, place) == self.moment:
            self.act(batch)
        return batch


def rows(out: Path) -> list[dict[str, str]]:
    """The rows of a run's table."""
    with (out / "metrics.csv").open() as file:
        return list(csv.DictReader(file))
