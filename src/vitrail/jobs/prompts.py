"""What is asked of a promptable segmenter: clicks, boxes or a rough mask, read from how they are typed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data import printable, read_picture, to_pixels
from vitrail.jobs.predict_config import PredictConfig


@dataclass(frozen=True)
class Prompts:
    """What is asked of every picture, in its own pixels; one prompt a row.

    Attributes:
        points: ``(P, N, 2)`` as ``(x, y)``.
        labels: 1 on the object, 0 beside it.
        boxes: ``(x0, y0, x1, y1)``.
        mask: from 0 outside to 1 inside, on the picture's pixels.
    """

    points: Float[Tensor, "p n 2"] | None = None
    labels: Int[Tensor, "p n"] | None = None
    boxes: Float[Tensor, "p 4"] | None = None
    mask: Float[Tensor, "1 height width"] | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is asked: then everything is."""
        return self.points is None and self.boxes is None and self.mask is None

    @property
    def mask_digest(self) -> str:
        """A fingerprint of the rough mask, empty when there is none."""
        return "" if self.mask is None else hashlib.sha256(self.mask.numpy().tobytes()).hexdigest()

    @property
    def ambiguous(self) -> bool:
        """Whether a prompt may mean a part as well as the whole: a single click and nothing else."""
        alone = self.boxes is None and self.mask is None
        return alone and self.points is not None and self.points.shape[1] == 1


def read_prompts(config: PredictConfig) -> Prompts:
    """The options as numbers. Several boxes are several objects; all points belong to one.

    Raises:
        VitrailError: numbers that cannot be read, labels that do not fit, or points beside several boxes.
    """
    points = read_points(config.points)
    boxes = [_numbers(text, 4, "boxes") for text in config.boxes]
    labels = list(config.point_labels) or [1] * len(points)
    if len(labels) != len(points):
        raise VitrailError(f"point_labels: {len(labels)} labels for {len(points)} points")
    if not set(labels) <= {0, 1}:
        raise VitrailError(f"point_labels must be 1 (on the object) or 0 (beside it), not {config.point_labels}")
    if len(boxes) > 1 and (len(points) or config.mask_in):
        raise VitrailError("points or a mask go with one box at most: several boxes are several objects")
    for left, top, right, bottom in boxes:
        if right <= left or bottom <= top:
            box = f"{left:g},{top:g},{right:g},{bottom:g}"
            raise VitrailError(f"boxes are X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1, not {box}")
    mask = None
    if config.mask_in is not None:
        mask = to_pixels(read_picture(config.mask_in, channels=1)).float() / 255
    return Prompts(
        points[None] if len(points) else None,
        torch.tensor([labels]) if len(points) else None,
        torch.tensor(boxes) if boxes else None,
        mask,
    )


def read_points(texts: Sequence[str]) -> Float[Tensor, "n 2"]:
    """Clicks, each typed as ``X,Y`` in pixels from the left and the top of a picture.

    Raises:
        VitrailError: one is anything but two finite numbers.
    """
    return torch.tensor([_numbers(text, 2, "points") for text in texts]).reshape(-1, 2)


def _numbers(text: str, count: int, option: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(isfinite, numbers)):
        raise VitrailError(f"{option}: {count} numbers with commas between them are wanted, not {text!r}")
    return numbers


def require_fitting(prompts: Prompts, picture: Image.Image, path: Path) -> None:
    """Refuse prompts that have no sense on this picture.

    Args:
        prompts: what is asked.
        picture: of whom.
        path: of the picture, for messages.

    Raises:
        VitrailError: points or boxes outside of it, or a mask of another size.
    """
    if prompts.points is not None:
        require_inside(prompts.points, "points", picture, path)
    if prompts.boxes is not None:
        require_inside(prompts.boxes.unflatten(-1, (2, 2)), "boxes", picture, path)
    if prompts.mask is not None and tuple(prompts.mask.shape[1:]) != (picture.height, picture.width):
        height, width = prompts.mask.shape[1:]
        raise VitrailError(
            f"{printable(str(path))}: is {picture.width}x{picture.height}, but the mask {width}x{height}"
        )


def require_inside(places: Float[Tensor, "... 2"], option: str, picture: Image.Image, path: Path) -> None:
    """Refuse places outside a picture.

    Args:
        places: ``(x, y)`` in its pixels; its far edges are inside.
        option: that gave them, for the message.
        picture: the picture.
        path: of the picture, for the message.

    Raises:
        VitrailError: one lies outside.
    """
    if not bool(((places >= 0) & (places <= torch.tensor([picture.width, picture.height]))).all()):
        name = printable(str(path))
        raise VitrailError(f"{name}: {option} lie outside its {picture.width}x{picture.height} pixels")
