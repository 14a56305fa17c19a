"""Vitrail beside timm and Transformers: inference and a training step of one ViT, same weights, interleaved rounds.

Run: python benchmarks/beside_peers.py [--model vit_small_patch16_224] [--batch 16] [--rounds 5]

Ratios within one run count; absolute figures drift from minute to minute and from machine to machine.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import transformers
from rich.console import Console
from rich.table import Table
from timing import interleaved
from torch import Tensor, nn

import vitrail
from vitrail.data import Preprocess
from vitrail.weights import Artefact, convert


def peers(name: str) -> dict[str, nn.Module]:
    """The same random weights in three libraries."""
    torch.manual_seed(0)
    ours = vitrail.create_model(name)
    with tempfile.TemporaryDirectory() as folder:
        Artefact(ours, (), Preprocess()).save_pretrained(Path(folder) / "vitrail")
        convert(Path(folder) / "vitrail", Path(folder) / "hf", to="transformers")
        convert(Path(folder) / "vitrail", Path(folder) / "timm", to="timm")
        theirs = transformers.AutoModelForImageClassification.from_pretrained(Path(folder) / "hf")
        reference = timm.create_model(name, checkpoint_path=str(Path(folder) / "timm" / "model.safetensors"))
    return {"vitrail": ours, "timm": reference, "transformers": theirs}


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Whatever a library wraps them in."""
    found = model(images)
    return found if isinstance(found, Tensor) else found.logits


def inference(model: nn.Module, images: Tensor, autocast: bool) -> Callable[[], None]:
    """One forward pass."""
    model.eval()

    def run() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits(model, images)

    return run


def training(model: nn.Module, images: Tensor, autocast: bool) -> Callable[[], None]:
    """Forward, backward, clipping and a fused AdamW step."""
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    labels = torch.arange(len(images)) % 1000

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = nn.functional.cross_entropy(logits(model, images).float(), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
        optimiser.step()
        optimiser.zero_grad()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    models = peers(options.model)
    images = torch.randn(options.batch, 3, 224, 224)
    table = Table("task", "precision", *(f"{name}, pictures/s" for name in models), "to timm", "to transformers")
    for task in (inference, training):
        for autocast in (False, True):
            runs = {name: task(model, images, autocast) for name, model in models.items()}
            seconds = interleaved(runs, options.rounds)
            table.add_row(
                task.__name__,
                "bf16 autocast" if autocast else "fp32",
                *(f"{options.batch / value:.1f}" for value in seconds.values()),
                f"{seconds['timm'] / seconds['vitrail']:.2f}x",
                f"{seconds['transformers'] / seconds['vitrail']:.2f}x",
            )
    versions = f"torch {torch.__version__}, timm {timm.__version__}, transformers {transformers.__version__}"
    Console().print(table, f"{options.model}, batch {options.batch}, {torch.get_num_threads()} threads", versions)
    Console().print(platform.platform())


if __name__ == "__main__":
    main()
