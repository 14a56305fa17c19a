"""Parts of JPEG files without the rest of them, where libjpeg-turbo can be had with its headers.

A random crop takes about half of a picture; decoding no more than that saves a quarter of the time. Optional: without a
compiler or the headers (``libjpeg-dev``), or where other bits come out, whole pictures are decoded and cut.
"""

from __future__ import annotations

import ctypes
import io
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vitrail.building import Unavailable, built

Box = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""

SOURCE = Path(__file__).with_name("jpeg_part.cpp")
FLAGS = ("-O2", "-std=c++17")
LIBRARIES = ("-ljpeg",)


def cut(pixels: UInt8[Tensor, "c h0 w0"], box: Box) -> UInt8[Tensor, "c h w"]:
    """A box of a decoded picture."""
    top, left, height, width = box
    return pixels[:, top : top + height, left : left + width]


class PartDecoder:
    """Asks the library.

    Args:
        library: made of ``jpeg_part.cpp``.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._decode = library.decode_part
        self._decode.argtypes = [ctypes.c_char_p, ctypes.c_size_t, *[ctypes.c_int] * 5, ctypes.c_void_p]

    def __call__(self, data: bytes, channels: int, box: Box) -> UInt8[Tensor, "c h w"] | None:
        """The pixels in a box that lies inside the picture, channels last in memory; None where data look damaged.

        Args:
            data: a whole JPEG file.
            channels: 1 (of a grey picture) or 3 (of a colour one).
            box: the part.
        """
        _, _, height, width = box
        pixels = torch.empty(height, width, channels, dtype=torch.uint8)
        failed = self._decode(data, len(data), channels, *box, pixels.data_ptr())
        return None if failed else pixels.permute(2, 0, 1)


@cache
def part_decoder() -> PartDecoder | None:
    """The decoder, built where this machine does not have it yet; None where it cannot be had or gives other bits."""
    try:
        decoder = PartDecoder(ctypes.CDLL(str(built("jpeg", [SOURCE], FLAGS, LIBRARIES))))
    except (Unavailable, OSError):
        return None
    return decoder if _agrees(decoder) else None


def sample_files() -> list[tuple[bytes, UInt8[np.ndarray, "h w c"]]]:
    """Small JPEG files of all usual kinds, and their pixels as Pillow decodes them."""
    rows, columns = np.mgrid[:61, :83]
    colours = np.stack([rows * 4, columns * 3, (rows * columns) % 256, 255 * (rows // 5 % 2)], axis=-1).astype(np.uint8)
    pictures = [Image.fromarray(colours[..., :3]), Image.fromarray(colours[..., 1:]), Image.fromarray(colours[..., 2])]
    files = []
    for picture, subsampling, progressive in product(pictures, (0, 1, 2), (False, True)):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=85, subsampling=subsampling, progressive=progressive)
        files.append((file.getvalue(), np.atleast_3d(np.array(Image.open(file)))))
    return files


def _agrees(decoder: PartDecoder) -> bool:
    for data, wanted in sample_files():
        height, width, channels = wanted.shape
        for box in ((0, 0, height, width), (13, 29, 31, 37), (40, 50, 21, 33), (0, 82, 61, 1), (17, 0, 1, 20)):
            top, left, tall, wide = box
            found = decoder(data, channels, box)
            if found is None or not np.array_equal(
                found.permute(1, 2, 0), wanted[top : top + tall, left : left + wide]
            ):
                return False
    return True
