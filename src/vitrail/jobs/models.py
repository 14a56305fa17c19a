"""From what a user names as --model to a model that is ready: an artefact, a run, a checkpoint or a pretrained name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.models import Backbone
from vitrail.nn.embed import as_pair
from vitrail.weights import Artefact, create_model, pretrained_preprocess


def artefact_folder(model: str) -> Path | None:
    """The artefact that a folder is (``config.json``) or holds (``model/``, a run's), if any."""
    folder = Path(model)
    for candidate in (folder, folder / "model"):
        if (candidate / "config.json").is_file() and (candidate / "model.safetensors").is_file():
            return candidate
    return None


def open_artefact(
    model: str, overrides: Mapping[str, Any] | None = None, online: bool = False, pretrained: bool = True
) -> Artefact:
    """The model that answers for ``model``, with its classes and preprocessing.

    Args:
        model: artefact folder, run folder, checkpoint file or pretrained name.
        overrides: fields of the architecture to replace (``img_size``, ``patch_size``).
        online: whether weights may be downloaded.
        pretrained: False for a named architecture with fresh weights (a baseline).

    Raises:
        VitrailError: a run that has not finished, an unknown name, weights that are nowhere to be had.
    """
    overrides = dict(overrides or {})
    folder = artefact_folder(model)
    if folder is not None:
        artefact = Artefact.from_pretrained(folder)
        return resized(artefact, overrides) if overrides else artefact
    if (Path(model) / "config.yaml").is_file():
        raise VitrailError(f"{model}: this run has not finished, so it has no model yet; repeat its command to go on")
    preprocess = preprocess_for(model, overrides.get("img_size"))
    overrides.setdefault("img_size", preprocess.size)
    backbone = create_model(model, pretrained=pretrained, online=online, **overrides)
    return Artefact(backbone.eval(), classes=(), preprocess=fit_bands(preprocess, backbone.in_channels))


def fit_bands(preprocess: Preprocess, bands: int) -> Preprocess:
    """The same preprocessing for pictures of ``bands`` bands: other numbers of them get the mean of the known ones."""
    if len(preprocess.mean) == bands:
        return preprocess
    mean = sum(preprocess.mean) / len(preprocess.mean)
    std = sum(preprocess.std) / len(preprocess.std)
    return replace(preprocess, mean=(mean,) * bands, std=(std,) * bands)


def preprocess_for(model: str, image_size: int | tuple[int, int] | None) -> Preprocess:
    """The preprocessing that a named model or checkpoint expects, at another size when one is given."""
    preprocess = pretrained_preprocess(model)
    return preprocess if image_size is None else preprocess.with_size(as_pair(image_size))


def resized(artefact: Artefact, overrides: Mapping[str, Any]) -> Artefact:
    """The same model for pictures of another size; positions follow."""
    other = sorted(set(overrides) - {"img_size"})
    if other:
        raise VitrailError(f"{', '.join(other)} of a trained model cannot be changed; only image_size can")
    size = as_pair(overrides["img_size"])
    return Artefact(artefact.model, artefact.classes, replace(artefact.preprocess, size=size))


def require_classes(artefact: Artefact, model: str) -> None:
    """Refuse a model that cannot name what it sees."""
    if not artefact.classes:
        raise VitrailError(
            f"{model} has no classes of its own: train it first (vitrail train), or use embed, probe or explain"
        )


def weights_digest(model: Backbone) -> str:
    """A short fingerprint of every weight, for caches that must not outlive them."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
