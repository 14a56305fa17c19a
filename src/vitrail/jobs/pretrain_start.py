"""What every method of pretraining is built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vitrail.data import Augment, Preprocess, TrainTransform
from vitrail.models import Model


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
