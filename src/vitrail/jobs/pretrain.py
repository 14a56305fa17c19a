"""``vitrail pretrain``: pictures and a model in; a run folder with features that were learnt without labels out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitrail.contracts import Method, Progress
from vitrail.data import Loader, Splits
from vitrail.engine import GLOBAL_BATCH, FitResult, World, fit, init, sole_trainer
from vitrail.jobs.claim import claim, pictures_fingerprint, take
from vitrail.jobs.embed import FeaturePool
from vitrail.jobs.inference import Hardware
from vitrail.jobs.left_out import LeftOut, say_left_out, used
from vitrail.jobs.models import artefact_folder, open_model, with_crop
from vitrail.jobs.options import filled, named_values
from vitrail.jobs.pretrain_config import PretrainConfig
from vitrail.jobs.pretraining.data import open_pictures
from vitrail.jobs.pretraining.measure import FeatureWatch
from vitrail.jobs.pretraining.pictures import Album
from vitrail.jobs.pretraining.report import report_pretraining
from vitrail.jobs.pretraining.table import Pretraining, Start, pretraining
from vitrail.jobs.progress import say, say_once
from vitrail.jobs.run import MODEL, PICTURES, command_line, environment, write_metrics
from vitrail.jobs.settings import default_out
from vitrail.jobs.training import FREE
from vitrail.models import Model, PlainConfig
from vitrail.weights import Artefact, named_config

MORE_FREE = (*FREE, "k", "measured", "pictured")
"""Options that may differ when a run goes on: they change no result."""


@dataclass(frozen=True)
class PretrainResult:
    """A finished run: its folder, the encoder, and what was measured of its features at the end."""

    out: Path
    artefact: Artefact
    metrics: Mapping[str, float]
    report: Path | None


@dataclass(frozen=True)
class Parts:
    """What one run is made of."""

    config: PretrainConfig
    out: Path
    entry: Pretraining
    options: Any
    splits: Splits
    start: Start
    method: Method
    world: World


def pretrain(config: PretrainConfig) -> PretrainResult | None:
    """Train an encoder without labels, or go on with the unfinished run in ``config.out``.

    Returns:
        The finished run; None on processes other than the first.

    Raises:
        VitrailError: bad input, or a run in ``out`` that was asked for something else.
        Interrupted: after a signal, once a checkpoint is written.
    """
    started = time.perf_counter()
    world = init()
    entry = pretraining(config.method)
    options = filled(entry.options, config.method_options, f"{config.method} option")
    out = config.out or default_out("pretrain", config.method, config.data, config.model)
    # Drawn before anything else, so that fresh weights are the same in every process and on every resume.
    torch.manual_seed(config.seed)
    start = starting_point(config, entry)
    splits = open_pictures(config, world) if entry.opens is None else entry.opens(config, start, options)
    reads = (config.data, config.model, *(value for value in asdict(options).values() if isinstance(value, str)))
    world.on_main(lambda: claim("pretrain", config, out, reads, MORE_FREE))
    parts = Parts(config, out, entry, options, splits, start, entry.build(start, options), world)
    say_once(world, f"{config.data}: {len(splits.train)} pictures to learn from, {len(splits.val)} held out")
    loader, shown = training_loader(parts), album(parts)
    method, same = config.checkpointed(parts.method), fingerprint(parts)
    watch = FeatureWatch(splits, entry.plain(start), entry.encoder, feature_pool(start, entry), config, world)
    left_out = LeftOut(out, world, lambda: (*loader.skipped, *watch.skipped))

    def observe(model: nn.Module, progress: Progress) -> None:
        shown(model, progress)
        left_out.note()

    with sole_trainer(out, world):
        take("pretrain", config, out, world)
        fitted = fit(
            method,
            loader,
            config.engine(),
            out,
            evaluate=watch,
            observe=observe,
            fingerprint=same,
            world=world,
            tensorboard=config.tensorboard,
            ways=config.ways(),
        )
        skipped = left_out.note()
        if not world.is_main:
            return None
        return finish(parts, fitted, loader, skipped, fitted.seconds_before + time.perf_counter() - started)


def starting_point(config: PretrainConfig, entry: Pretraining) -> Start:
    """The model as the method finds it, with its preprocessing and augmentation."""
    artefact = open_model(config.model, architecture(config, entry), pretrained=config.pretrained, online=config.online)
    preprocess = with_crop(artefact, config.crop).preprocess
    return Start(artefact.model, preprocess, config.augment(), config.online, artefact.files)


def architecture(config: PretrainConfig, entry: Pretraining) -> dict[str, Any]:
    """Every field of the architecture that is set: by the method where the family has it, then by the user."""
    name = str(artefact_folder(config.model) or config.model)
    known = {field.name for field in fields(named_config(name))}
    wishes = {"num_classes": 0, "drop_path": config.drop_path, "dropout": config.dropout}
    wishes |= entry.needs if config.pretrained else {**entry.fresh, **entry.needs}
    presets = {field: value for field, value in wishes.items() if field in known}
    return {**presets, **config.model_overrides(), **named_values(config.model_options, "model option")}


def feature_pool(start: Start, entry: Pretraining) -> FeaturePool:
    """What the method makes features of; patches where the model has no class token."""
    config = start.model.config
    return "mean" if isinstance(config, PlainConfig) and not config.class_token else entry.pool


def album(parts: Parts) -> Album:
    """The held-out pictures that are shown over time."""
    config, entry, start = parts.config, parts.entry, parts.start
    folder = parts.out / PICTURES
    count = config.pictured if entry.pictures else 0
    return Album(
        parts.method, parts.splits.val, count, start.preprocess, entry.show, folder, parts.world, config.on_error
    )


def training_loader(parts: Parts) -> Loader:
    """Shuffled batches of this process, as the method looks at pictures."""
    transform = parts.entry.transform(parts.start, parts.options)
    return parts.config.learning_loader(parts.splits.train, transform, parts.world)


def fingerprint(parts: Parts) -> dict[str, str]:
    """What must be the same for a run to be gone on with, besides the engine's own settings."""
    return {
        GLOBAL_BATCH: str(parts.config.batch_size),
        "method": f"{parts.config.method} {parts.options}",
        "model": f"{parts.config.model} {parts.start.model.config}",
        **pictures_fingerprint(parts.splits, parts.world),
        "preprocess": str(parts.start.preprocess),
        "augmentation": str(parts.start.augment),
    }


def finish(
    parts: Parts, fitted: FitResult, loader: Loader, left_out: Mapping[str, str], seconds: float
) -> PretrainResult:
    """Keep the encoder, write figures and report.

    Args:
        parts: what the run was made of.
        fitted: what came out of it.
        loader: of the training batches.
        left_out: broken pictures, and what is wrong with each.
        seconds: that the run took.
    """
    config, out = parts.config, parts.out
    hardware = Hardware.of(config, parts.world)
    assert isinstance(fitted.model, Model)
    notes = {"method": config.method, "data": config.data}
    files = parts.entry.files(parts.start, parts.options)
    artefact = Artefact(fitted.model, (), parts.start.preprocess, notes, files)
    artefact.save_pretrained(out / MODEL)
    facts = {
        **fitted.metrics,
        "pictures": used(parts.splits, left_out),
        "epochs": config.epochs,
        "steps": fitted.steps,
        "seconds": round(seconds, 1),
        "resumed": fitted.resumed,
        "skipped": [list(item) for item in left_out.items()],
        "command": command_line("pretrain", out),
        "environment": environment(hardware.device, hardware.precision.reason),
    }
    report = None
    if config.report:
        report = report_pretraining(config, out, parts.splits.train.classes, parts.start.preprocess, loader, facts)
    write_metrics(out, facts)
    say_left_out(parts.splits, left_out, facts["pictures"])
    measured = "  ".join(f"{name} {value:.4g}" for name, value in fitted.metrics.items())
    say(f"{measured or 'done'}, {seconds:.0f} s")
    say(f"model {out / MODEL}" + (f", report {report}" if report else ""))
    return PretrainResult(out, artefact, fitted.metrics, report)
