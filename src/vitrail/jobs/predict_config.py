"""The options of ``vitrail predict``, whatever kind of model answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from vitrail.jobs.backend import BackendSettings


@dataclass(frozen=True, kw_only=True)
class ClassOptions:
    """Of the models that answer with classes."""

    top: int = 5
    """Classes a picture, most probable first."""


@dataclass(frozen=True, kw_only=True)
class WordOptions:
    """Of image-text models."""

    labels: tuple[str, ...] = ()
    """For image-text models: the classes in words."""
    template: tuple[str, ...] = ("a photo of a {}.",)
    """For image-text models: sentences that the words are put into, averaged; {} stands for the word."""


@dataclass(frozen=True, kw_only=True)
class BoxOptions:
    """Of detectors."""

    threshold: float = 0.7
    """For detectors: boxes below this score are left out."""


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """Of promptable segmenters."""

    points: tuple[str, ...] = ()
    """For promptable segmentation: points X,Y in pixels from the left and the top."""
    point_labels: tuple[int, ...] = ()
    """1 for a point on the object, 0 for one beside it; all 1 when left out."""
    boxes: tuple[str, ...] = ()
    """For promptable segmentation: boxes X0,Y0,X1,Y1 in pixels."""
    mask_in: Path | None = None
    """For promptable segmentation: a mask to refine, a grey picture of the picture's size."""
    points_per_side: int = 32
    """For segmentation of everything: clicks along each side; --batch-size of them are answered at once."""
    mask_quality: float = 0.88
    """For segmentation of everything: masks of a lower predicted IoU are left out."""
    mask_stability: float = 0.95
    """For segmentation of everything: masks that change more with the threshold are left out."""
    mask_overlap: float = 0.7
    """For segmentation of everything: of masks whose boxes overlap more, the best is kept."""
    crop_layers: int = 0
    """For segmentation of everything: further passes over 4, 16 … parts of the picture."""
    min_region: int = 0
    """For segmentation of everything: islands and holes of fewer pixels are removed."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig(MaskOptions, BoxOptions, WordOptions, ClassOptions, BackendSettings):
    """What a model says of pictures: classes, boxes or masks, by the kind of model. A killed job goes on where it was.

    A classifier, or an image-text model with --labels, writes class and confidence of every picture into a table; a
    detector boxes; a promptable segmenter masks (of --points and --boxes, or of everything).
    """

    source: Positional[str]
    """A picture, a folder (searched through) or a glob."""
    model: str
    """Folder of a run or of an artefact, a checkpoint, or the name of published weights."""
    draw: Path | None = None
    """Folder for pictures with the answer drawn on them; none are drawn when left out."""
    out: Path | None = None
    """The table (.csv, .jsonl or .parquet), for masks a folder. Left out: under runs/. Pictures go by their paths; what
    of one is not UTF-8 stands as \\udcff, for the byte FF."""
