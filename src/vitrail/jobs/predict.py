"""``vitrail predict``: what a model says of pictures, in the form that its kind answers in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from glob import glob
from pathlib import Path
from typing import Any

from vitrail.contracts import VitrailError
from vitrail.graphs import Output, is_quantised
from vitrail.jobs.backend import graph_of, open_graph
from vitrail.jobs.detect import predict_detection
from vitrail.jobs.inference import Hardware, make_ready
from vitrail.jobs.merging import with_merging
from vitrail.jobs.models import open_model
from vitrail.jobs.predict_classes import predict_classes, predict_classes_by_graph
from vitrail.jobs.predict_config import BoxOptions, ClassOptions, MaskOptions, PredictConfig, WordOptions
from vitrail.jobs.segment import predict_segmentation
from vitrail.jobs.settings import make_folder
from vitrail.jobs.tables import Table
from vitrail.jobs.zero_shot import predict_zero_shot
from vitrail.models import Backbone, Detr, DualEncoder, Model, Sam
from vitrail.weights import Artefact

Form = Callable[[PredictConfig, Artefact, Hardware], Table]
"""One way to answer: the rows that were written."""

FORMS: dict[type[Model], Form] = {
    Backbone: predict_classes,
    Detr: predict_detection,
    Sam: predict_segmentation,
    DualEncoder: predict_zero_shot,
}
"""By the kind of model; the first that fits answers."""

OPTIONS: Sequence[tuple[tuple[type[Model], ...], str, type[Any]]] = (
    ((Backbone, DualEncoder), "classifiers and image-text models", ClassOptions),
    ((DualEncoder,), "image-text models", WordOptions),
    ((Detr,), "detectors", BoxOptions),
    ((Sam,), "promptable segmenters", MaskOptions),
)
"""Some kinds of models, what they are called, and the options that they alone take."""

LOGITS: tuple[Output, ...] = ("logits",)
"""What a graph is asked for."""


def predict(config: PredictConfig) -> Table:
    """Predictions of every picture, in order; a row for each, or for each box or mask. They stay in the file.

    Raises:
        VitrailError: options of another kind of model, or files that cannot be read or written.
    """
    if config.draw is not None:
        _require_apart(config.source, config.draw)
        make_folder(config.draw, "--draw")
    if config.backend != "torch" and is_quantised(config.model):
        graph = open_graph(config, config.backend, LOGITS)
        refuse_foreign(config, Backbone, graph.facts.family)
        return predict_classes_by_graph(config, graph)
    artefact = with_merging(open_model(config.model, config.model_overrides(), online=config.online), config)
    refuse_foreign(config, type(artefact.model), type(artefact.model).__name__)
    if config.backend != "torch":
        if isinstance(artefact.model, DualEncoder):
            return predict_zero_shot(config, artefact, Hardware.of(config))
        return predict_classes_by_graph(config, graph_of(artefact, config, config.backend, LOGITS))
    form = next((form for kind, form in FORMS.items() if isinstance(artefact.model, kind)), predict_classes)
    model, hardware = make_ready(artefact.model, Hardware.of(config), config.batch_size)
    return form(config, artefact.with_model(model), hardware)


def _require_apart(source: str, drawn: Path) -> None:
    """Refuse to draw among the pictures: one of that name would be replaced, and the next run would find the others.

    Raises:
        VitrailError: naming the folder.
    """
    folder = drawn.resolve()
    pictures = [Path(source)] if Path(source).exists() else map(Path, glob(source, recursive=True))  # noqa: PTH207
    for path in pictures:
        if folder.is_relative_to(path.resolve()) if path.is_dir() else folder == path.resolve().parent:
            raise VitrailError(f"{drawn}: lies among the pictures of {source}; give --draw a folder apart from them")


def refuse_foreign(config: PredictConfig, kind: type[Model], family: str) -> None:
    """Refuse options that this kind of model would ignore.

    Args:
        config: what was asked for.
        kind: of the model.
        family: what the model is called in the message.

    Raises:
        VitrailError: naming them, and the kind of model that takes them.
    """
    for takes, called, group in OPTIONS:
        given = [option.name for option in fields(group) if vars(config)[option.name] != option.default]
        if given and not issubclass(kind, takes):
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise VitrailError(f"{config.model} is a {family}, but only {called} take {options}: leave that out")
