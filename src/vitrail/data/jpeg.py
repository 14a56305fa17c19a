"""JPEG files by the quicker of two decoders, where both give the same bits; and parts of them without the rest.

Pillow keeps four bytes a pixel and copies them into three; torchvision decodes straight into what is wanted, and saves
a fifth of the time. Both usually rest on the same library (libjpeg-turbo), but not by any promise: so the two are
compared once per process, and torchvision's is used where they agree. Whatever is unusual about a file is left to
Pillow, and so is saying what is wrong with it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from vitrail.data.jpeg_part import Box, cut, part_decoder, sample_files

_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_ORIENTATION_TAG = 0x0112
_MODES = {1: ImageReadMode.GRAY, 3: ImageReadMode.RGB}
_BANDS = {"L": 1, "RGB": 3}


@dataclass(frozen=True)
class PlainJpeg:
    """An upright, complete grey or colour JPEG file that is not decoded yet.

    Attributes:
        data: the whole file.
        bands: of the file, 1 or 3.
        channels: of what is asked for: a grey picture is repeated into 3.
        height: in pixels.
        width: in pixels.
        by_pillow: reads the whole picture where decoding fails; says what is wrong with the file.
    """

    data: bytes
    bands: int
    channels: int
    height: int
    width: int
    by_pillow: Callable[[], UInt8[Tensor, "c h w"]]

    def pixels(self) -> UInt8[Tensor, "c h w"]:
        """All of it, channels last in memory.

        Raises:
            BrokenPicture: the data are damaged.
        """
        try:
            pixels = _decode(self.data, self.bands)
        # Pillow's reading of the same bytes tells what is wrong with them, if anything is.
        except Exception:
            return self.by_pillow()
        return pixels.expand(self.channels, -1, -1)

    def part(self, box: Box) -> UInt8[Tensor, "c h w"]:
        """The same bits of a part alone; damage that shows only behind it stays unseen.

        Raises:
            BrokenPicture: the data are damaged.
        """
        decoder = part_decoder()
        whole = box == (0, 0, self.height, self.width)
        pixels = None if decoder is None or whole else decoder(self.data, self.bands, box)
        return cut(self.pixels(), box) if pixels is None else pixels.expand(self.channels, -1, -1)


def plain_jpeg(
    data: bytes, channels: int, most: int, by_pillow: Callable[[], UInt8[Tensor, "c h w"]]
) -> PlainJpeg | None:
    """The file where it is such a JPEG; None for anything else.

    Args:
        data: a whole file.
        channels: 3 or 1; a grey picture is repeated into 3, a colour one is not made grey here.
        most: pixels that a picture may have.
        by_pillow: reads the same data.
    """
    if not data.startswith(_START) or not data.endswith(_END) or not decoders_agree():
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as header:
            bands = _BANDS.get(header.mode, 0)
            upright = header.format == "JPEG" and header.getexif().get(_ORIENTATION_TAG, 1) == 1
            width, height = header.size
    # Pillow says it again when it is asked for the picture.
    except Exception:
        return None
    if not upright or bands not in (1, channels) or width * height > most:
        return None
    return PlainJpeg(data, bands, channels, height, width, by_pillow)


@cache
def decoders_agree() -> bool:
    """Whether torchvision can decode JPEG here, and to the same bits as Pillow."""
    try:
        return all(np.array_equal(_decode(data, bits.shape[2]).permute(1, 2, 0), bits) for data, bits in sample_files())
    except RuntimeError:
        return False


def _decode(data: bytes, bands: int) -> UInt8[Tensor, "c h w"]:
    pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), _MODES[bands])
    assert isinstance(pixels, Tensor)  # One picture was given, not a list.
    return pixels
