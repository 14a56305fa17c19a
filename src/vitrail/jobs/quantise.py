"""``vitrail quantise``: a model in 8 bits for OpenVINO, calibrated on the user's pictures and kept only if it holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tyro.conf import Positional

from vitrail.contracts import VitrailError
from vitrail.data import FileSource, Preprocess, Source, SubsetSource, list_pictures, open_data
from vitrail.data.reading import OnError
from vitrail.graphs import (
    PLANS,
    OpenVINORunner,
    Output,
    need,
    quantise_graph,
    require_free,
    usual_outputs,
    write_quantised,
)
from vitrail.jobs.agreement import Agreement, accuracy_of, compare, outputs_on
from vitrail.jobs.backend import graph_of
from vitrail.jobs.inference import readable, say_skipped
from vitrail.jobs.models import open_model
from vitrail.jobs.progress import say
from vitrail.jobs.settings import Settings, default_out
from vitrail.models import Backbone

LEAST = 8
"""Pictures without which neither calibration nor comparison means anything."""


@dataclass(frozen=True, kw_only=True)
class QuantiseConfig(Settings):
    """A classifier or picture encoder in 8 bits: 1.2 to 1.7 times as fast as bf16 where measured, and less exact.

    It is compared with the float32 model on pictures that it was not calibrated on, and refused when it loses more
    than --max-loss. predict takes the folder of a classifier, embed that of an encoder, with --backend openvino.
    """

    model: Positional[str]
    """Folder of a run or of an artefact, a checkpoint, or the name of published weights."""
    calibrate: str
    """Pictures like those that the model will work on: a folder, a glob, or data as for train. No labels needed."""
    outputs: tuple[Output, ...] = ()
    """Left out: logits of a classifier (for predict), class token and patch mean of an encoder (for embed)."""
    data: str | None = None
    """Labelled pictures, as for train: accuracy before and after decides (of a linear probe, for an encoder)."""
    pictures: int = 300
    """At most so many are calibrated on."""
    held_out: int = 200
    """At most so many others are compared on; a third of few."""
    max_loss: float = 1.0
    """Points: accuracy that may be lost, or without --data the share of answers that may change."""
    max_error: float = 0.15
    """Relative L2 error of an output that may arise."""
    val_fraction: float = 0.25
    """Share of --data held out when it has no validation part."""
    split_seed: int = 0
    """Of that split."""

    def __post_init__(self) -> None:
        """Refuse numbers that no job can work with."""
        super().__post_init__()
        for name, value in (("pictures", self.pictures), ("held_out", self.held_out)):
            if value < 1:
                raise VitrailError(f"{name} must be at least 1, not {value}")


def quantise(config: QuantiseConfig) -> Agreement:
    """Write the first plan that holds, from the quickest to the most careful; how it compares with float32.

    Raises:
        VitrailError: none holds (with the report of each), too few pictures, or a model that makes no graph.
    """
    need("nncf", "openvino", "vitrail quantise")
    out = config.out or default_out("quantise", config.model)
    require_free(out)
    artefact = open_model(config.model, config.model_overrides(), online=config.online)
    if not isinstance(artefact.model, Backbone):
        raise VitrailError(f"classifiers and picture encoders are quantised, not a {type(artefact.model).__name__}")
    outputs = config.outputs or usual_outputs(artefact.model)
    exact = graph_of(artefact, replace(config, precision="fp32"), "openvino", outputs)
    chosen, others = divide(calibration_source(config, exact.bands), config)
    splits = config.data and open_data(
        config.data, val_fraction=config.val_fraction, seed=config.split_seed, online=config.online
    )
    wanted = outputs_on(exact, others, config, "float32")
    say_skipped(wanted.skipped)
    before = accuracy_of(exact, splits, config, str(config.data)) if splits else None
    pictures = stack(chosen, artefact.preprocess, config.on_error)
    refused = []
    for plan in PLANS:
        say(f"8 bits: {plan.name}, calibrated on {len(pictures)} pictures …")
        made = quantise_graph(exact.file, pictures, plan)
        runner = OpenVINORunner(made, config.precision, config.batch_size)
        graph = replace(exact, runner=runner)
        after = accuracy_of(graph, splits, config, str(config.data)) if splits else None
        accuracy = None if before is None or after is None else (before, after)
        values = outputs_on(graph, others, config, "8 bits").values
        found = compare(plan.name, exact.widths(), wanted.values, values, accuracy)
        reason = found.refusal(config.max_loss, config.max_error)
        if reason is None:
            report = {**found.to_dict(), "precision": runner.precision, "calibrated_on": len(pictures)}
            write_quantised(made, exact.facts, report, out)
            verb = "predict" if "logits" in outputs else "embed"
            say(f"{found} → {out}; {verb} takes it with --backend openvino")
            return found
        refused.append(f"{plan.name}: {reason}")
    raise VitrailError(
        f"{config.model}: no 8-bit graph was kept. {'; '.join(refused)}. Calibrate on more pictures like those that "
        "it will work on, or raise --max-loss or --max-error if that is good enough"
    )


def calibration_source(config: QuantiseConfig, bands: int) -> Source:
    """The pictures under a path, whatever their folders mean, or the training part of named data."""
    path = Path(config.calibrate)
    named = path.suffix.lower() == ".csv" or (not path.exists() and not any(sign in config.calibrate for sign in "*?["))
    if named:
        return open_data(config.calibrate, online=config.online, labelled=False).train
    return FileSource(list_pictures(config.calibrate), bands, config.calibrate)


def divide(source: Source, config: QuantiseConfig) -> tuple[Source, Source]:
    """A seeded choice of pictures to calibrate on, and others to compare on.

    Raises:
        VitrailError: there are too few.
    """
    if len(source) < LEAST:
        raise VitrailError(
            f"{config.calibrate}: {len(source)} pictures are too few to calibrate on: give {LEAST} or more"
        )
    held_out = min(config.held_out, len(source) // 3)
    order = np.random.default_rng(config.seed).permutation(len(source))
    return (
        SubsetSource(source, order[held_out : held_out + config.pictures], "calibration"),
        SubsetSource(source, order[:held_out], "held out"),
    )


def stack(source: Source, preprocess: Preprocess, on_error: OnError = "raise") -> Float[Tensor, "n c h w"]:
    """All pictures of a source as the model reads them.

    Args:
        source: the pictures.
        preprocess: the model's.
        on_error: whether a broken picture is an error, or is left out with a line that says so.

    Raises:
        VitrailError: a broken picture, or no other ones.
    """
    seen = [preprocess(picture) for picture in readable(source, range(len(source)), on_error)]
    if not seen:
        raise VitrailError("every picture was broken: nothing is left to calibrate on")
    return torch.stack(seen)
