"""From what a user names as --model to a model that is ready: an artefact, a run, a checkpoint or a pretrained name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.graphs import is_quantised
from vitrail.jobs.run import CONFIG, MODEL
from vitrail.models import Model
from vitrail.nn.merging_block import MergingBlock
from vitrail.weights import Artefact, create_model, is_artefact, load_pretrained


def open_model(
    model: str, options: Mapping[str, Any] | None = None, *, pretrained: bool = True, online: bool = False
) -> Artefact:
    """The model that answers for ``model``, with its classes (none when its head is fresh) and preprocessing.

    Args:
        model: artefact folder, run folder, checkpoint file, pretrained or architecture name.
        options: fields of the architecture to replace (``img_size``, ``num_classes``, ``drop_path`` …).
        pretrained: False for a named architecture with fresh weights.
        online: whether weights may be downloaded.

    Raises:
        VitrailError: a run that has not finished, an 8-bit graph, an unknown name, weights that are nowhere to be had.
    """
    options = dict(options or {})
    name = weights_of(model)
    if not pretrained:
        backbone = create_model(name, **options)
        return Artefact(backbone, (), _fitted(Preprocess(), backbone))
    loaded = load_pretrained(name, online=online, **options)
    preprocess = loaded.preprocess or Preprocess(size=loaded.model.img_size)
    if "img_size" not in options and preprocess.size != loaded.model.img_size:
        # Weights whose authors classify at another size than they trained at: positions are resized once, here.
        loaded = load_pretrained(name, online=online, **options, img_size=preprocess.size)
    preprocess = _fitted(preprocess, loaded.model)
    return Artefact(loaded.model, loaded.classes, preprocess, files=loaded.files, fresh=loaded.account.fresh)


def weights_of(model: str) -> str:
    """What a user named, as ``vitrail.weights`` takes it: of a run the artefact in it, all else as it is.

    Raises:
        VitrailError: a run that has not finished, or an 8-bit graph.
    """
    folder = artefact_folder(model)
    if folder is None and (Path(model) / CONFIG).is_file():
        raise VitrailError(f"{model}: this run has not finished, so it has no model yet; repeat its command to go on")
    return model if folder is None else str(folder)


def artefact_folder(model: str) -> Path | None:
    """The artefact that a folder is, or holds as a run does (``model/``), if any.

    Raises:
        VitrailError: an 8-bit graph, of which torch makes no model.
    """
    if is_quantised(model):
        raise VitrailError(f"{model} holds an 8-bit graph: predict and embed take it with --backend openvino")
    return next((folder for folder in (Path(model), Path(model) / MODEL) if is_artefact(folder)), None)


def with_crop(artefact: Artefact, crop: float | None) -> Artefact:
    """The same model with another share of the picture kept by the centre crop; None leaves it."""
    if crop is None:
        return artefact
    cropped = replace(artefact.preprocess, crop=crop)
    return Artefact(artefact.model, artefact.classes, cropped, artefact.training_info, artefact.files, artefact.fresh)


def require_classes(artefact: Artefact, model: str) -> None:
    """Refuse a model that cannot name what it sees."""
    require_named(artefact.classes, model)


def require_named(classes: Sequence[str], model: str) -> None:
    """Refuse to answer without names of classes."""
    if not classes:
        raise VitrailError(
            f"{model} has no classes of its own: train it first (vitrail train), or use embed, probe or explain"
        )


def weights_digest(model: Model) -> str:
    """A short fingerprint of every weight and of merging, for caches that must not outlive them."""
    digest = hashlib.sha256()
    for part in model.modules():
        if isinstance(part, MergingBlock):
            digest.update(f"merges {part.count}".encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _fitted(preprocess: Preprocess, model: Model) -> Preprocess:
    """The same preprocessing at the model's own size and number of bands (new bands get the mean of the known ones)."""
    preprocess = preprocess.with_size(model.img_size)
    bands = model.in_channels
    if len(preprocess.mean) == bands:
        return preprocess
    mean, std = (sum(values) / len(values) for values in (preprocess.mean, preprocess.std))
    return replace(preprocess, mean=(mean,) * bands, std=(std,) * bands)
