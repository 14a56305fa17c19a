"""What every method of pretraining is built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitrail.contracts import VitrailError
from vitrail.data import Augment, Preprocess, TrainTransform
from vitrail.models import Model, VisionTransformer


@dataclass(frozen=True)
class Start:
    """What a method is built from.

    Attributes:
        model: as ``--model``, ``--model-options`` and ``--pretrained`` say; it has no classifier.
        preprocess: the model's.
        augment: how views of a picture vary, for methods that do not vary them in a way of their own.
        online: whether further models (a teacher, a tokenizer) may be downloaded.
        files: small text files by name that the model came with (a tokenizer).
    """

    model: Model
    preprocess: Preprocess
    augment: Augment
    online: bool = False
    files: Mapping[str, str] = field(default_factory=dict)


def own_files(start: Start, options: Any) -> Mapping[str, str]:
    """The files that the model came with."""
    return start.files


def plain_view(start: Start) -> TrainTransform:
    """Pictures as evaluation takes them."""
    return TrainTransform(start.preprocess, None)


def augmented_view(start: Start, options: Any) -> TrainTransform:
    """One augmented view of a picture."""
    return TrainTransform(start.preprocess, start.augment)


def vision_transformer(start: Start, method: str) -> VisionTransformer:
    """The start's model, for methods that need a plain ViT.

    Raises:
        VitrailError: it is another.
    """
    if not isinstance(start.model, VisionTransformer):
        raise VitrailError(f"{method} trains a Vision Transformer (vit_…), not a {type(start.model).__name__}")
    return start.model


def patch_grid(start: Start) -> tuple[int, int]:
    """Rows and columns of patches at the size of the preprocessing."""
    (height, width), (tall, wide) = start.preprocess.size, start.model.patch_size
    return height // tall, width // wide
