"""JPEG files by the quicker of two decoders, where both give the same bits.

Pillow keeps four bytes a pixel and copies them into three; torchvision decodes straight into what is wanted, and saves
a fifth of the time. Both usually rest on the same library (libjpeg-turbo), but not by any promise: so the two are
compared once per process, and torchvision's is used where they agree. Whatever is unusual about a file is left to
Pillow, and so is saying what is wrong with it.
"""

from __future__ import annotations

import io
from functools import cache
from itertools import product

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_ORIENTATION_TAG = 0x0112
_MODES = {("RGB", 3): ImageReadMode.RGB, ("L", 1): ImageReadMode.GRAY, ("L", 3): ImageReadMode.GRAY}


def decode_plain_jpeg(data: bytes, channels: int, most: int) -> UInt8[Tensor, "c h w"] | None:
    """The pixels of an upright, complete grey or colour JPEG, channels last in memory; None for anything else.

    Args:
        data: a whole file.
        channels: 3 or 1; a grey picture is repeated into 3, a colour one is not made grey here.
        most: pixels that a picture may have.
    """
    if not data.startswith(_START) or not data.endswith(_END) or not decoders_agree():
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as header:
            mode = _MODES.get((header.mode, channels))
            upright = header.format == "JPEG" and header.getexif().get(_ORIENTATION_TAG, 1) == 1
            if mode is None or not upright or header.width * header.height > most:
                return None
            pixels = _decode(data, mode)
    # Pillow's reading of the same bytes tells what is wrong with them, if anything is.
    except Exception:
        return None
    return pixels.expand(channels, -1, -1)


@cache
def decoders_agree() -> bool:
    """Whether torchvision can decode JPEG here, and to the same bits as Pillow."""
    rows, columns = np.mgrid[:61, :83]
    colours = np.stack([rows * 4, columns * 3, (rows * columns) % 256, 255 * (rows // 5 % 2)], axis=-1).astype(np.uint8)
    pictures = [Image.fromarray(colours[..., :3]), Image.fromarray(colours[..., 1:]), Image.fromarray(colours[..., 2])]
    for picture, subsampling, progressive in product(pictures, (0, 1, 2), (False, True)):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=85, subsampling=subsampling, progressive=progressive)
        wanted = np.atleast_3d(np.array(Image.open(file))).transpose(2, 0, 1)
        try:
            found = _decode(file.getvalue(), _MODES[picture.mode, len(wanted)])
        except RuntimeError:
            return False
        if not np.array_equal(found.numpy(), wanted):
            return False
    return True


def _decode(data: bytes, mode: ImageReadMode) -> UInt8[Tensor, "c h w"]:
    pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode)
    assert isinstance(pixels, Tensor)  # One picture was given, not a list.
    return pixels
