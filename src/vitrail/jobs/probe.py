"""``vitrail probe``: how good are the features of a frozen model? Nearest neighbours and a linear classifier say."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tyro.conf import Positional

from vitrail.contracts import VitrailError
from vitrail.data import Source, open_data
from vitrail.durable import write_durably
from vitrail.jobs.bulk import fingerprint
from vitrail.jobs.embed import FeaturePool, FeatureVector
from vitrail.jobs.few_labels import with_few_labels
from vitrail.jobs.head_start import save_probe
from vitrail.jobs.inference import Hardware, Outputs, make_ready, run_source
from vitrail.jobs.merging import MergingSettings, with_merging
from vitrail.jobs.models import open_model, weights_digest, with_crop
from vitrail.jobs.progress import say
from vitrail.jobs.run import command_line, environment, open_run, write_metrics
from vitrail.jobs.settings import default_out
from vitrail.metrics import ClassificationScores, fit_linear_probe, knn_probabilities, score_classifier
from vitrail.weights import Artefact


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(MergingSettings):
    """Measure frozen features by nearest neighbours and logistic regression. Each picture is encoded once, and kept."""

    data: Positional[str]
    """A folder (train/ and val/, or one per class), a .csv, an IDX folder, or digits, elpv, fashion-mnist, hub:NAME."""
    model: str = "vit_small_patch14_dinov2"
    """Name of a pretrained model, folder of a run or of an artefact, or a checkpoint file."""
    pretrained: bool = True
    """--no-pretrained measures fresh weights, the baseline."""
    pool: FeaturePool = "class_mean"
    """Class token, mean of the patches, or both side by side."""
    k: int = 10
    """Neighbours that vote."""
    crop: float | None = None
    """Share of the resized picture that is kept (1 keeps all). Left out: what the weights were made with."""
    val_fraction: float = 0.25
    """Share held out when the data has no validation part."""
    split_seed: int = 0
    """Of that split."""
    train_limit: int | None = None
    """Learn from so many labelled pictures only: a seeded choice in which every class has its share."""
    shots: int | None = None
    """Learn from so many labelled pictures of each class only, a seeded choice."""


@dataclass(frozen=True)
class ProbeResult:
    """Scores of both probes on the held-out pictures."""

    knn: ClassificationScores
    linear: ClassificationScores
    out: Path


def probe(config: ProbeConfig) -> ProbeResult:
    """Encode the data once, then measure; figures go to ``OUT/metrics.json``."""
    started = time.perf_counter()
    splits = open_data(config.data, val_fraction=config.val_fraction, seed=config.split_seed, online=config.online)
    splits = with_few_labels(splits, config.train_limit, config.shots, config.seed)
    classes = splits.train.classes
    torch.manual_seed(config.seed)
    artefact = open_model(config.model, config.model_overrides(), pretrained=config.pretrained, online=config.online)
    artefact = with_crop(with_merging(artefact, config), config.crop)
    model, hardware = make_ready(artefact.model, Hardware.of(config), config.batch_size)
    artefact = artefact.with_model(model)
    out = open_run("probe", config, config.out or default_out("probe", config.data, config.model))
    train = cached_features(config, "train", splits.train, artefact, hardware, out)
    val = cached_features(config, "val", splits.val, artefact, hardware, out)
    k = min(config.k, len(train.labels))
    votes = knn_probabilities(train.values, train.labels, val.values, len(classes), k)
    knn = score_classifier(votes, val.labels, classes)
    fitted = fit_linear_probe(train.values, train.labels, len(classes), config.seed)
    save_probe(fitted, out)
    linear = score_classifier(fitted.probabilities(val.values), val.labels, classes)
    write_metrics(
        out,
        {
            "knn": knn.headline(),
            "linear": {**linear.headline(), "inverse_penalty": fitted.strength},
            "pictures": {"train": len(train.names), "val": len(val.names)},
            "features": train.values.shape[1],
            "merge": config.merge,
            "seconds": round(time.perf_counter() - started, 1),
            "command": command_line("probe", out),
            "environment": environment(hardware.device, hardware.precision.reason),
        },
    )
    say(
        f"{k} nearest neighbours {100 * knn.accuracy:.2f} %, linear probe {100 * linear.accuracy:.2f} % "
        f"on {len(val.names)} held-out pictures → {out / 'metrics.json'}"
    )
    return ProbeResult(knn, linear, out)


def cached_features(
    config: ProbeConfig, part: str, source: Source, artefact: Artefact, hardware: Hardware, out: Path
) -> Outputs:
    """Features of every picture, from ``OUT/features-PART.safetensors`` when they are there and still fit."""
    file = out / f"features-{part}.safetensors"
    names = hashlib.sha256("\0".join(source.name(i) for i in range(len(source))).encode("utf-8", "surrogatepass"))
    key = fingerprint(
        weights_digest(artefact.model), artefact.preprocess, hardware.form, config.pool, names.hexdigest()
    )
    stored = _read(file, key, source)
    if stored is not None:
        return stored
    outputs = run_source(
        FeatureVector(artefact.backbone, config.pool), source, artefact.preprocess, config, hardware, f"encode {part}"
    )
    for name, reason in outputs.skipped:
        say(f"skipped {name}: {reason}")
    if (outputs.labels < 0).any():
        raise VitrailError(f"{config.data}: probing needs labelled pictures")
    tensors = {"values": outputs.values, "labels": outputs.labels, "indices": outputs.indices}
    write_durably(file, lambda path: save_file(tensors, path, metadata={"key": key}))
    return outputs


def _read(file: Path, key: str, source: Source) -> Outputs | None:
    """Stored features, or None when there are none, they are damaged, or they belong to something else."""
    try:
        with safe_open(file, framework="pt") as stored:
            if (stored.metadata() or {}).get("key") != key:
                return None
            values, labels, indices = (stored.get_tensor(name) for name in ("values", "labels", "indices"))
    except (OSError, SafetensorError):
        return None
    return Outputs(values, labels, indices, tuple(source.name(int(i)) for i in indices), ())
