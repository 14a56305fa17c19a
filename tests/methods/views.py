"""What tests of methods with several views share: a tiny model, batches, and runs on the digits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from io import StringIO
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from vitrail.contracts import Batch, Method, Progress
from vitrail.data import Augment, Loader, MultiCrop, MultiCropTransform, Preprocess, open_data
from vitrail.data.views import LOCAL_VIEWS, MASKS, SECOND_VIEW
from vitrail.engine import EngineConfig, FitResult, World, fit
from vitrail.heads import ProjectionHead
from vitrail.methods.dinov2 import DINOv2Options, draw_mask
from vitrail.metrics.knn import knn_probabilities
from vitrail.models import Backbone, VisionTransformer, ViTConfig

TINY = ViTConfig(
    img_size=8, patch_size=2, in_channels=1, num_classes=0, embed_dim=32, depth=2, num_heads=2, mask_token=True
)
SMALL = {"prototypes": 24, "hidden": 32, "bottleneck": 16}
STILL = {"jitter": 0.0, "grey": 0.0, "blur": (0.0, 0.0, 0.0), "solarise": 0.0}
DIGITS = Preprocess((8, 8), 1.0, mean=(0.3,), std=(0.35,))


def tiny_vit(seed: int = 0, **changes: object) -> VisionTransformer:
    """A ViT for digits whose parameters are all random."""
    torch.manual_seed(seed)
    model = VisionTransformer(ViTConfig(**{**TINY.__dict__, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def view_batch(count: int = 3, local: int = 2, masks: bool = False) -> Batch:
    """Random pictures in two global and some local views; the second picture has no masked patches."""
    generator = torch.Generator().manual_seed(5)
    whole = torch.randn(2, count, 1, 8, 8, generator=generator)
    extras = {SECOND_VIEW: whole[1], LOCAL_VIEWS: torch.randn(count, local, 1, 4, 4, generator=generator)}
    if masks:
        extras[MASKS] = torch.rand(count, 2, 16, generator=generator) < 0.4
        extras[MASKS][1] = False
    return Batch(whole[0], None, torch.arange(count), tuple("abcdefgh"[:count]), extras)


def at(step: int, total: int = 100, epochs: int = 10) -> Progress:
    """A moment of a run."""
    return Progress(step, total, step * epochs // total, epochs)


def plain_head(head: ProjectionHead, features: Tensor) -> Tensor:
    """The projection head's scores by its equations, in float64."""
    x = features.double()
    layers = [layer for layer in head.mlp if isinstance(layer, nn.Linear)]
    for number, layer in enumerate(layers):
        x = x @ layer.weight.double().T + layer.bias.double()
        if number + 1 < len(layers):
            x = 0.5 * x * (1 + torch.erf(x / 2**0.5))
    weight = head.last_layer.weight.double()
    return (x / x.norm(dim=-1, keepdim=True)) @ (weight / weight.norm(dim=-1, keepdim=True)).T


def double(module: nn.Module) -> nn.Module:
    """A copy in float64."""
    return copy.deepcopy(module).double()


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest number; the head divides by small lengths, so gradients are big."""
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1e-3)).item()


def digits_loader(crops: MultiCrop, batch_size: int, world: World | None = None) -> Loader:
    """The training digits in views; with masks where the options are DINOv2's."""
    world = world or World()
    mask = partial(draw_mask, (4, 4), crops) if isinstance(crops, DINOv2Options) else None
    augment = Augment(scale=None, hflip=0.0, randaugment=None, erasing=0.0)
    transform = MultiCropTransform(DIGITS, crops, augment, (4, 4), mask)
    train = open_data("digits").train
    return Loader(train, transform, batch_size=batch_size, rank=world.rank, world_size=world.size)


class Few:
    """The first batches of each epoch of a loader; can fail at one of them."""

    def __init__(self, loader: Loader, batches: int, fail_at: int | None = None) -> None:
        self.loader, self.batches, self.fail_at = loader, batches, fail_at

    def __len__(self) -> int:
        return self.batches

    def epoch(self, epoch: int, start: int = 0):
        for place, batch in enumerate(self.loader.epoch(epoch, start), start):
            if place == self.batches:
                return
            if epoch * self.batches + place == self.fail_at:
                raise KeyboardInterrupt
            yield batch


def run(method: Method, loader: Few, out: Path, world: World | None = None, **changes: object) -> FitResult:
    """The engine on a method, quietly."""
    settings: dict = {
        "epochs": 2,
        "lr": 2e-3,
        "min_lr": 1e-5,
        "warmup_fraction": 0.1,
        "precision": "fp32",
        "device": "cpu",
        "checkpoint_every_s": None,
        "log_every": 1,
    }
    config = EngineConfig(**{**settings, **changes})
    return fit(method, loader, config, out, world=world or World(), console=Console(file=StringIO()))


@torch.no_grad()
def knn_accuracy(model: Backbone) -> float:
    """Share of the held-out digits that ten nearest neighbours name rightly."""
    splits = open_data("digits")
    features: list[Tensor] = []
    labels: list[Tensor] = []
    for source in (splits.train, splits.val):
        pictures = DIGITS.batch([source.pixels(index) for index in range(len(source))])
        features.append(model.eval().pool(model.features(pictures)))
        labels.append(torch.tensor([source.label(index) for index in range(len(source))]))
    votes = knn_probabilities(features[0], labels[0], features[1], 10)
    return float((votes.argmax(dim=1) == labels[1]).float().mean())


def columns(out: Path) -> Mapping[str, list[float]]:
    """The table of a run by column."""
    header, *rows = [line.split(",") for line in (out / "metrics.csv").read_text().splitlines()]
    return {name: [float(row[place]) for row in rows] for place, name in enumerate(header)}
