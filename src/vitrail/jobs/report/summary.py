"""What a report says: plain values, with no knowledge of how they were trained or how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.jobs.comparison import Comparison
from vitrail.metrics import ClassScores


@dataclass(frozen=True)
class Headline:
    """A figure that the reader should see first.

    Attributes:
        label: what it is.
        value: as it is to be read, with its unit.
        note: on what it was measured, in a few words.
    """

    label: str
    value: str
    note: str = ""

    @classmethod
    def time(cls, seconds: float, epochs: int, pictures: int) -> Headline:
        """How long a training took, and what was done in it."""
        passes = "1 epoch" if epochs == 1 else f"{epochs} epochs"
        taken = f"{seconds:.0f} s" if round(seconds) < 60 else f"{seconds / 60:.1f} min"
        return cls("Time", taken, f"{passes}, {pictures:,} pictures")


@dataclass(frozen=True)
class FirstBatch:
    """The first training batch as the model saw it, augmented.

    Attributes:
        images: ``(B, C, H, W)``, normalised.
        labels: one a picture; mixed pictures say what they were mixed from.
        mean: what normalisation subtracted, per band.
        std: what it divided by, per band.
    """

    images: Float[Tensor, "b c h w"]
    labels: Sequence[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Mistake:
    """A picture that the model got wrong.

    Attributes:
        picture: as the model saw it (resized and cropped).
        attention: the map on the patch grid, ``(H, W)``; None when the model has none.
        true: the class it has.
        predicted: the class it was given.
        confidence: in the predicted class, 0 … 1.
        name: of the picture, its path usually.
    """

    picture: Image.Image
    attention: Float[Tensor, "h w"] | None
    true: str
    predicted: str
    confidence: float
    name: str


@dataclass(frozen=True)
class Moment:
    """The same few pictures as the model saw them at one time of the run.

    Attributes:
        caption: when.
        image: what it saw.
    """

    caption: str
    image: Image.Image


@dataclass(frozen=True)
class RunSummary:
    """Everything a report shows. A part that is empty or None leaves its section out.

    Attributes:
        title: of the page.
        command: what to type to get the same run again.
        config: settings by name.
        environment: versions, device, time, by name.
        classes: names, in the order of the confusion matrix.
        headline: the figures on top.
        comparison: this run's accuracy and that of others, in per cent.
        metrics: ``metrics.csv`` with columns step or epoch, losses, ``val_…`` scores and ``lr``.
        alone: columns of it on a scale of their own.
        moments: the same pictures over the run, in time order.
        confusion: counts, ``(classes, classes)``: rows are the true class, columns the predicted one.
        per_class: scores by class.
        first_batch: pictures of the first training batch.
        mistakes: the most telling ones, most confident first.
        warnings: what went wrong on the way, such as skipped pictures.

    Raises:
        VitrailError: when the parts do not fit each other.
    """

    title: str
    command: str
    config: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, object] = field(default_factory=dict)
    classes: Sequence[str] = ()
    headline: Sequence[Headline] = ()
    comparison: Sequence[Comparison] = ()
    metrics: Path | None = None
    alone: Sequence[str] = ()
    moments: Sequence[Moment] = ()
    confusion: Int[np.ndarray, "k k"] | None = None
    per_class: Sequence[ClassScores] = ()
    first_batch: FirstBatch | None = None
    mistakes: Sequence[Mistake] = ()
    warnings: Sequence[str] = ()

    def __post_init__(self) -> None:
        count = len(self.classes)
        if self.confusion is not None and self.confusion.shape != (count, count):
            raise VitrailError(f"a confusion matrix of {count} classes cannot have the shape {self.confusion.shape}")
        batch = self.first_batch
        if batch is not None and len(batch.labels) != len(batch.images):
            raise VitrailError(f"the first batch has {len(batch.images)} pictures but {len(batch.labels)} labels")
