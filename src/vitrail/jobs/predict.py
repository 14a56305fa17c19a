"""``vitrail predict``: what a model says of pictures, in the form that its kind answers in."""

from __future__ import annotations

from collections.abc import Callable

from vitrail.export import Output, is_quantised
from vitrail.jobs.backend import graph_of, open_graph, refuse_quantised
from vitrail.jobs.detect import predict_detection
from vitrail.jobs.inference import Hardware, make_ready
from vitrail.jobs.merging import with_merging
from vitrail.jobs.models import open_model
from vitrail.jobs.predict_classes import predict_classes, predict_classes_by_graph
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.segment import predict_segmentation
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

LOGITS: tuple[Output, ...] = ("logits",)
"""What a graph is asked for."""


def predict(config: PredictConfig) -> Table:
    """Predictions of every picture, in order; a row for each, or for each box or mask. They stay in the file."""
    if config.backend == "torch":
        refuse_quantised(config.model)
    elif is_quantised(config.model):
        return predict_classes_by_graph(config, open_graph(config, config.backend, LOGITS))
    artefact = with_merging(open_model(config.model, config.model_overrides(), online=config.online), config)
    if config.backend != "torch":
        if isinstance(artefact.model, DualEncoder):
            return predict_zero_shot(config, artefact, Hardware.of(config))
        return predict_classes_by_graph(config, graph_of(artefact, config, config.backend, LOGITS))
    form = next((form for kind, form in FORMS.items() if isinstance(artefact.model, kind)), predict_classes)
    model, hardware = make_ready(artefact.model, Hardware.of(config), config.batch_size)
    return form(config, artefact.with_model(model), hardware)
