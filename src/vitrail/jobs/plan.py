"""``vitrail plan``: what a model will cost, before anything is run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from vitrail.contracts import VitrailError
from vitrail.durable import write_json
from vitrail.jobs.progress import say
from vitrail.jobs.settings import ImageSize
from vitrail.models import config_of
from vitrail.nn.embed import as_pair
from vitrail.speed import (
    Cost,
    Curve,
    PredictedTime,
    calibrate,
    cost,
    curve,
    predict_time,
    prepared_attention,
)
from vitrail.speed.curve_figure import draw_curves

SIDES = (224, 336, 448, 672, 896, 1344)


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Parameters, multiply-adds and memory of models, computed from their architecture; no model is run or downloaded.

    Multiply-adds count matrix products, convolutions and attention's two products (one picture, forward). Memory is
    the highest point of a pass over a batch: weights, activations, and in training gradients and AdamW's moments.
    """

    models: Positional[tuple[str, ...]]
    """Architectures (vitrail list models)."""
    image_size: ImageSize | None = None
    """Pixels, one number or height and width. Left out: what each model was made for."""
    batch_size: int = 1
    """Pictures at once."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: inference with cast weights, training under autocast."""
    time: bool = False
    """Predict pictures per second on this machine's processor too, from a short calibration."""
    json: Path | None = None
    """Write the whole account into this file."""
    plot: Path | None = None
    """Draw cost against resolution into this file (.png, .pdf, .svg)."""
    sides: tuple[int, ...] = SIDES
    """Resolutions of the plot, in pixels."""


def plan(config: PlanConfig) -> list[Cost]:
    """The account of every model, in order.

    Raises:
        VitrailError: an unknown model, or a size that it does not take.
    """
    if not config.models:
        raise VitrailError("plan needs at least one model: see vitrail list models")
    if config.batch_size < 1:
        raise VitrailError(f"batch_size must be at least 1, not {config.batch_size}")
    size = None if config.image_size is None else as_pair(config.image_size)
    accounts = [cost(config_of(name), name, size, config.batch_size, config.precision) for name in config.models]
    times: list[PredictedTime] = []
    if config.time:
        rates, attention = calibrate(config.precision), prepared_attention(config.precision)
        times = [
            predict_time(config_of(name), rates, name, size, config.batch_size, config.precision, attention)
            for name in config.models
        ]
    for number, account in enumerate(accounts):
        _show(account)
        for predicted in times[number : number + 1]:
            _show_time(predicted)
    curves: list[Curve] = []
    if config.plot is not None:
        curves = [curve(name, config_of(name), config.sides, config.precision) for name in config.models]
        say(f"cost against resolution → {draw_curves(curves, config.plot)}")
    if config.json is not None:
        content: dict[str, Any] = {"models": [a.to_dict() for a in accounts], "curves": [asdict(c) for c in curves]}
        write_json(config.json, content | ({"times": [asdict(one) for one in times]} if times else {}))
    return accounts


def _show(account: Cost) -> None:
    height, width = account.img_size
    console = Console(soft_wrap=True)
    console.print(
        f"\n[bold]{account.model}[/] at {height}x{width}, batch {account.batch}, {account.precision}: "
        f"{account.parameters:,} parameters, {account.macs / 1e9:.2f} GMACs a picture"
    )
    parts = Table("part", box=None, pad_edge=False)
    for title in ("parameters", "GMACs", "share", "waiting for backward"):
        parts.add_column(title, justify="right")
    for part in account.parts:
        share = part.macs / max(1, account.macs)
        parts.add_row(
            part.name, f"{part.parameters:,}", f"{part.macs / 1e9:.3f}", f"{share:.1%}", _mebi(part.training_bytes)
        )
    console.print(parts)
    memory = Table("memory", box=None, pad_edge=False)
    for title in ("weights", "working", "optimiser", "total"):
        memory.add_column(title, justify="right")
    for title, row in (
        ("inference", account.inference),
        ("inference, plain attention", account.inference_plain),
        ("training", account.training),
        ("training, plain attention", account.training_plain),
        ("training, checkpointed blocks", account.training_checkpointed),
    ):
        memory.add_row(title, _mebi(row.weights), _mebi(row.working), _mebi(row.optimiser), _mebi(row.total))
    console.print(memory)


def _show_time(predicted: PredictedTime) -> None:
    rates = predicted.rates
    Console(soft_wrap=True).print(
        f"inference ≈ {predicted.inference_rate:,.1f} pictures/s, training ≈ {predicted.training_rate:,.1f} pictures/s "
        f"on this machine's processor ({rates.flops / 1e12:.2f} TFLOP/s, {rates.bytes / 1e9:.0f} GB/s)"
    )


def _mebi(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
