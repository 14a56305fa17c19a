"""Cost against resolution: where attention over the whole picture becomes a wall, and windows do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.contracts import VitrailError
from vitrail.models import ModelConfig
from vitrail.speed.cost import Precision, inference_memory, macs


@dataclass(frozen=True)
class Point:
    """A model at one resolution.

    Attributes:
        side: pixels of the square picture.
        macs: multiply-adds of its forward pass.
        fused, plain: bytes of activations and weights at batch 1, without and with the matrix of attention weights.
    """

    side: int
    macs: int
    fused: int
    plain: int


@dataclass(frozen=True)
class Curve:
    """One model over resolutions; those that it cannot take are left out."""

    name: str
    points: tuple[Point, ...]


def curve(name: str, config: ModelConfig, sides: Sequence[int], precision: Precision = "fp32") -> Curve:
    """Cost of one picture at each resolution.

    Raises:
        VitrailError: the model takes none of the sizes; what it says of the last one.
    """
    points, refused = [], ""
    for side in sides:
        size = (side, side)
        try:
            count = macs(config, size)
        except VitrailError as error:
            refused = str(error)
            continue
        fused, plain = (inference_memory(config, size, 1, precision, kernel).total for kernel in ("fused", "plain"))
        points.append(Point(side, count, fused, plain))
    if not points:
        raise VitrailError(f"{name} takes none of the sizes {', '.join(map(str, sides))}: {refused}")
    return Curve(name, tuple(points))
