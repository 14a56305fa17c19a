"""``vitrail train``: data and a model in; a run folder with a trained, measured, explained model out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from vitrail.contracts import Method
from vitrail.data import Loader, Preprocess, Splits, TrainTransform, open_data
from vitrail.engine import GLOBAL_BATCH, FitResult, World, fit, init, resolve_device, sole_trainer
from vitrail.jobs.claim import begun, claim, pictures_fingerprint, take
from vitrail.jobs.few_labels import with_few_labels
from vitrail.jobs.head_start import start_head_from_file, start_head_from_probe
from vitrail.jobs.held_out import HeldOut
from vitrail.jobs.inference import Hardware, Outputs, classifier, run_source
from vitrail.jobs.left_out import LeftOut, say_left_out, used
from vitrail.jobs.models import open_model, weights_digest, with_crop
from vitrail.jobs.progress import say, say_once
from vitrail.jobs.run import MODEL, command_line, environment, write_metrics
from vitrail.jobs.settings import default_out
from vitrail.jobs.teacher import open_teacher
from vitrail.jobs.train_config import TrainConfig
from vitrail.jobs.train_report import report_run
from vitrail.jobs.training import FREE
from vitrail.methods import Classify, Distill, Teacher
from vitrail.metrics import ClassificationScores, score_classifier
from vitrail.models import Backbone
from vitrail.weights import Artefact


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its folder, scores on the held-out pictures, and the model."""

    out: Path
    scores: ClassificationScores
    artefact: Artefact
    report: Path | None


@dataclass(frozen=True)
class Parts:
    """What one run is made of."""

    config: TrainConfig
    out: Path
    splits: Splits
    model: Backbone
    preprocess: Preprocess
    teacher: Teacher | None
    world: World

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.splits.train.classes


def train(config: TrainConfig) -> TrainResult | None:
    """Train a classifier, or go on with the unfinished run in ``config.out``.

    Returns:
        The finished run; None on processes other than the first.

    Raises:
        VitrailError: bad input, or a run in ``out`` that was asked for something else.
        Interrupted: after a signal, once a checkpoint is written.
    """
    started = time.perf_counter()
    world = init()
    out = config.out or default_out("train", config.data, config.model)
    # Drawn before anything else, so that a fresh head is the same in every process and on every resume.
    torch.manual_seed(config.seed)
    splits = open_data(config.data, val_fraction=config.val_fraction, seed=config.split_seed, online=config.online)
    splits = with_few_labels(splits, config.train_limit, config.shots, config.seed)
    reads = (config.data, config.model, config.teacher, config.head)
    world.on_main(lambda: claim("train", config, out, reads, (*FREE, "compare")))
    model, preprocess = starting_model(config, splits.train.classes)
    parts = Parts(config, out, splits, model, preprocess, teacher_for(config, splits.train.classes, preprocess), world)
    if config.head != "fresh" and not begun(config, out):
        _start_head(parts)
    loader = training_loader(parts)
    measured, left_out = held_out(parts), LeftOut(out, world, lambda: loader.skipped)
    say_once(world, f"{config.data}: {len(splits.train)} pictures to train on, {len(splits.val)} held out")
    method, same = config.checkpointed(objective(parts)), fingerprint(parts)
    with sole_trainer(out, world):
        take("train", config, out, world)
        fitted = fit(
            method,
            loader,
            config.engine(),
            out,
            evaluate=measured,
            observe=lambda model, progress: left_out.note(),
            fingerprint=same,
            world=world,
            tensorboard=config.tensorboard,
            ways=config.ways(),
        )
        skipped = left_out.note()
        if not world.is_main:
            return None
        seconds = fitted.seconds_before + time.perf_counter() - started
        return finish(parts, fitted, loader, measured.latest, skipped, seconds)


def starting_model(config: TrainConfig, classes: tuple[str, ...]) -> tuple[Backbone, Preprocess]:
    """The model as training finds it, frozen as asked, and its preprocessing.

    What no file had a value for (another pool than the published one) is never frozen: it has to learn something.
    """
    options = {**config.options(), "num_classes": len(classes)}
    artefact = open_model(config.model, options, pretrained=config.pretrained, online=config.online)
    named = artefact.model.named_parameters()
    fresh = [parameter for name, parameter in named if name in artefact.fresh and parameter.requires_grad]
    config.tuning()(artefact.backbone)
    for parameter in fresh:
        parameter.requires_grad_(True)
    return artefact.backbone, with_crop(artefact, config.crop).preprocess


def teacher_for(config: TrainConfig, classes: tuple[str, ...], preprocess: Preprocess) -> Teacher | None:
    """The frozen model that was asked for, if any."""
    if config.teacher is None:
        return None
    return open_teacher(config.teacher, classes, preprocess, online=config.online)


def objective(parts: Parts) -> Method:
    """What is minimised: the labels' cross-entropy, with a teacher's where there is one."""
    if parts.teacher is None:
        return Classify(parts.model)
    return Distill(parts.model, parts.teacher, parts.config.distill())


def _start_head(parts: Parts) -> None:
    config = parts.config
    if config.head == "probe":
        hardware = Hardware.of(config, parts.world)
        start_head_from_probe(parts.model, parts.splits.train, parts.preprocess, config, hardware)
    else:
        start_head_from_file(parts.model, Path(config.head))


def training_loader(parts: Parts) -> Loader:
    """Shuffled, augmented, mixed batches of this process."""
    config = parts.config
    return config.learning_loader(
        parts.splits.train,
        TrainTransform(parts.preprocess, config.augment()),
        parts.world,
        config.mixing(len(parts.classes)),
        soft_labels=config.soft_labels,
    )


def held_out(parts: Parts) -> HeldOut:
    """This process's share of the held-out pictures, as evaluation sees them."""
    config, plain = parts.config, TrainTransform(parts.preprocess, None)
    loader = config.measuring_loader(parts.splits.val, plain, parts.world, config.training_workers)
    return HeldOut(loader, resolve_device(config.device, parts.world), parts.world)


def fingerprint(parts: Parts) -> dict[str, str]:
    """What must be the same for a run to be gone on with, besides the engine's own settings."""
    config = parts.config
    probabilities = parts.splits.train.probabilities if config.soft_labels else None
    taught = {}
    if parts.teacher is not None:
        taught = {"teacher": f"{weights_digest(parts.teacher.model)} {parts.teacher.own} {config.distill()}"}
    return {
        **taught,
        GLOBAL_BATCH: str(config.batch_size),
        "model": f"{config.model} {parts.model.config}",
        "tuning": f"{config.head} {config.tune} {config.tune_blocks} {config.lora_rank} {config.lora_alpha}",
        "classes": ", ".join(parts.classes),
        **pictures_fingerprint(parts.splits, parts.world, probabilities),
        "preprocess": str(parts.preprocess),
        "augmentation": str(config.augment()),
        "mixing": f"{config.mixup} {config.cutmix} {config.mix_prob} {config.smoothing}",
    }


def finish(
    parts: Parts,
    fitted: FitResult,
    loader: Loader,
    outputs: Outputs | None,
    left_out: Mapping[str, str],
    seconds: float,
) -> TrainResult:
    """Keep the model, measure it on the held-out pictures, write figures and report.

    Args:
        parts: what the run was made of.
        fitted: what came out of it.
        loader: of the training batches.
        outputs: what the model said of the held-out pictures; None where it has not been asked about all of them.
        left_out: broken pictures, and what is wrong with each.
        seconds: that the run took.
    """
    config, out = parts.config, parts.out
    assert isinstance(fitted.model, Backbone)
    artefact = Artefact(fitted.model, parts.classes, parts.preprocess)
    artefact.save_pretrained(out / MODEL)
    hardware = Hardware.of(config, parts.world)
    fitted.model.to(hardware.device)
    if outputs is None:
        model = classifier(fitted.model)
        outputs = run_source(model, parts.splits.val, parts.preprocess, config, hardware, "evaluate")
    scores = score_classifier(outputs.values, outputs.labels, parts.classes)
    left_out = {**left_out, **dict(outputs.skipped)}
    facts = {
        **scores.headline(),
        "pictures": {**used(parts.splits, left_out), "val": len(outputs.names)},
        "epochs": config.epochs,
        "steps": fitted.steps,
        "seconds": round(seconds, 1),
        "resumed": fitted.resumed,
        "confusion": scores.confusion.tolist(),
        "skipped": [list(item) for item in left_out.items()],
        "command": command_line("train", out),
        "environment": environment(hardware.device, hardware.precision.reason),
    }
    report = None
    if config.report:
        report = report_run(config, out, parts.splits, artefact, scores, outputs, loader, facts)
    write_metrics(out, facts)
    say_left_out(parts.splits, left_out, facts["pictures"])
    say(f"accuracy {100 * scores.accuracy:.2f} % on {len(outputs.names)} held-out pictures, {seconds:.0f} s")
    say(f"model {out / MODEL}" + (f", report {report}" if report else ""))
    return TrainResult(out, scores, artefact, report)
