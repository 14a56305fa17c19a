"""``vitrail evaluate``: scores of a classifier on labelled pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tyro.conf import Positional

from vitrail.contracts import VitrailError
from vitrail.data import Source, open_data
from vitrail.jobs.inference import Hardware, Outputs, classifier, make_ready, run_source
from vitrail.jobs.merging import MergingSettings, with_merging
from vitrail.jobs.models import artefact_folder, open_model, require_classes
from vitrail.jobs.own_folder import own_folder
from vitrail.jobs.progress import say
from vitrail.jobs.run import CONFIG, environment, open_run, same_data, verb_of, write_metrics
from vitrail.jobs.settings import read_config
from vitrail.jobs.training import Training
from vitrail.metrics import ClassificationScores, score_classifier
from vitrail.weights import Artefact

Split = Literal["val", "train"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(MergingSettings):
    """Score a trained classifier. Without DATA: on the held-out pictures of the run that trained it."""

    data: Positional[str | None] = None
    """Labelled pictures, as for train. Left out: what the run held out."""
    model: str
    """Folder of a run or of an artefact."""
    split: Split = "val"
    """Part of the data. Data that have no parts and are not the run's are scored whole."""
    val_fraction: float | None = None
    """Share held out when the data has no validation part. Left out: as in the run; nothing of other data."""

    def __post_init__(self) -> None:
        """Refuse what would otherwise show after the model and the data were opened."""
        super().__post_init__()
        if self.split not in get_args(Split):
            raise VitrailError(f"split must be {' or '.join(get_args(Split))}, not {self.split!r}")


@dataclass(frozen=True)
class EvaluateResult:
    """Scores, the outputs behind them, and where they were written."""

    scores: ClassificationScores
    outputs: Outputs
    out: Path


def evaluate(config: EvaluateConfig) -> EvaluateResult:
    """Score a classifier on labelled pictures and write ``metrics.json``."""
    artefact = with_merging(open_model(config.model, config.model_overrides(), online=config.online), config)
    require_classes(artefact, config.model)
    source = _source(config, artefact)
    model, hardware = make_ready(artefact.model, Hardware.of(config), config.batch_size)
    out = open_run("evaluate", config, config.out) if config.out else own_folder("evaluate", config, "data", "model")
    outputs = run_source(classifier(model), source, artefact.preprocess, config, hardware, f"evaluate {config.split}")
    scores = score_classifier(outputs.values, outputs.labels, artefact.classes)
    write_metrics(
        out,
        {
            **scores.headline(),
            "pictures": len(outputs.names),
            "skipped": [list(item) for item in outputs.skipped],
            "confusion": scores.confusion.tolist(),
            "merge": config.merge,
            "environment": environment(hardware.device, hardware.precision.reason),
        },
    )
    say(f"accuracy {100 * scores.accuracy:.2f} % on {len(outputs.names)} pictures → {out / 'metrics.json'}")
    return EvaluateResult(scores, outputs, out)


def _source(config: EvaluateConfig, artefact: Artefact) -> Source:
    remembered = _run_values(config.model)
    data = config.data or remembered.get("data")
    if data is None:
        raise VitrailError(f"{config.model} does not remember the data it was trained on: name the data to evaluate on")
    same = config.data is None or same_data(config.data, remembered.get("data"))
    fraction = config.val_fraction
    if fraction is None and same:
        fraction = remembered.get("val_fraction", Training.val_fraction)
    seed = remembered.get("split_seed", Training.split_seed) if same else config.seed
    splits = open_data(data, val_fraction=fraction, seed=seed, online=config.online)
    source = splits.train if config.split == "train" else splits.val
    if source.classes != artefact.classes:
        raise VitrailError(
            f"the classes differ: {data} has {', '.join(source.classes)}; the model has {', '.join(artefact.classes)}"
        )
    return source


def _run_values(model: str) -> Mapping[str, Any]:
    """What the run that made an artefact was asked for, without what stood at its default; empty for an artefact that
    stands alone."""
    folder = artefact_folder(model)
    if folder is None or verb_of(folder.parent) != "train":
        return {}
    return read_config(folder.parent / CONFIG)
