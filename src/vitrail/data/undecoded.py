"""Pictures that may not be decoded yet, for whoever needs no more than a part of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from jaxtyping import UInt8
from torch import Tensor

from vitrail.data.finish import Sample
from vitrail.data.jpeg import PlainJpeg
from vitrail.data.jpeg_part import Box, cut

Undecoded = UInt8[Tensor, "c0 h0 w0"] | PlainJpeg
"""A picture's pixels, or its file where decoding a part costs less than decoding all."""


class PartTransform(ABC):
    """From a picture to a sample, by :func:`part` of it where that is all it needs.

    Any other transform is given pixels.
    """

    @abstractmethod
    def __call__(self, picture: Undecoded) -> Sample | Mapping[str, Sample]:
        """One random view."""


def whole(picture: Undecoded) -> UInt8[Tensor, "c h w"]:
    """All pixels.

    Raises:
        BrokenPicture: as for :func:`part`, the file proves damaged.
    """
    return picture.pixels() if isinstance(picture, PlainJpeg) else picture


def part(picture: Undecoded, box: Box) -> UInt8[Tensor, "c h w"]:
    """The pixels in a box."""
    return picture.part(box) if isinstance(picture, PlainJpeg) else cut(picture, box)


def size(picture: Undecoded) -> tuple[int, int]:
    """Height and width."""
    if isinstance(picture, PlainJpeg):
        return picture.height, picture.width
    return picture.shape[-2], picture.shape[-1]
