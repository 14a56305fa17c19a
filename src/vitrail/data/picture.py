"""Reading one picture from a file, as a person would see it, or saying exactly why it cannot be read.

Policies (each tested):

* EXIF orientation is applied, all eight.
* Transparency (RGBA, LA, palette or ``tRNS``) is composited on **white**, as viewers show it. Dropping alpha, as
  ``convert("RGB")`` does, would uncover whatever colour happens to lie below the transparent parts.
* 16-bit grey is scaled linearly, 0 … 65,535 to 0 … 255. 32-bit integer and float pictures have no agreed range
  and are refused.
* Animations and multi-page files give their first frame.
* The content decides the format, not the file's extension.
* A cut-off file is broken, also where another library has switched on Pillow's ``LOAD_TRUNCATED_IMAGES``.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data.files import MAX_BYTES, BrokenPicture, read_file
from vitrail.data.jpeg import PlainJpeg, plain_jpeg

MAX_PIXELS = 178_956_970
"""Pictures with more pixels are refused as decompression bombs: Pillow's own hard limit, 0.5 GB as RGB."""

# A closed list: Pillow would otherwise also try formats that start other programs (EPS through Ghostscript).
# "JPEG" includes the multi-picture files of phones.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "TGA", "DIB")

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)
_ORIENTATION_TAG = 0x0112
_strict_lock = threading.Lock()


def read_picture(
    source: str | os.PathLike[str] | bytes | BinaryIO, channels: int = 3, name: str | None = None
) -> Image.Image:
    """Read a picture; the policies are those of this module's docstring.

    Args:
        source: a path, a whole file's bytes, or an open binary file (read to its end; never closed).
        channels: 3 for RGB, 1 for grey (luma of ITU-R 601).
        name: what to call it in messages; default: the path.

    Returns:
        An upright picture of mode ``"RGB"`` or ``"L"``, fully decoded.

    Raises:
        BrokenPicture: empty, cut off, not a picture, more than :data:`MAX_PIXELS`, missing, unreadable.
        VitrailError: ``channels`` is neither 1 nor 3.
    """
    return _picture(*_read(source, channels, name), channels)


def read_pixels(
    source: str | os.PathLike[str] | bytes | BinaryIO, channels: int = 3, name: str | None = None
) -> UInt8[Tensor, "c h w"]:
    """The pixels of :func:`read_picture`, the same bits, in the quickest way; channels last in memory."""
    opened = open_pixels(source, channels, name)
    return opened.pixels() if isinstance(opened, PlainJpeg) else opened


def open_pixels(
    source: str | os.PathLike[str] | bytes | BinaryIO, channels: int = 3, name: str | None = None
) -> UInt8[Tensor, "c h w"] | PlainJpeg:
    """The pixels of :func:`read_picture`, or a file of which a part can be decoded alone."""
    data, name = _read(source, channels, name)

    def by_pillow() -> UInt8[Tensor, "c h w"]:
        return to_pixels(_picture(data, name, channels))

    jpeg = plain_jpeg(data, channels, MAX_PIXELS, by_pillow)
    return by_pillow() if jpeg is None else jpeg


def to_pixels(picture: Image.Image) -> UInt8[Tensor, "c h w"]:
    """A picture's pixels as uint8: 1 channel when it is grey, 3 otherwise; channels last in memory, as they come."""
    flat = torch.from_numpy(np.array(flatten(picture)))
    return flat[None] if flat.ndim == 2 else flat.permute(2, 0, 1)


def _picture(data: bytes, name: str, channels: int) -> Image.Image:
    picture = flatten(_decode(data, name), name)
    wanted = "RGB" if channels == 3 else "L"
    return picture if picture.mode == wanted else picture.convert(wanted)


def _read(source: str | os.PathLike[str] | bytes | BinaryIO, channels: int, name: str | None) -> tuple[bytes, str]:
    if channels not in (1, 3):
        raise VitrailError(f"A picture is read with 1 or 3 channels, not {channels}")
    if isinstance(source, str | os.PathLike):
        name = name or os.fspath(source)
        return read_file(Path(source), name), name
    if isinstance(source, bytes):
        name, data = name or "<bytes>", source
    else:
        name, data = name or "<stream>", source.read(MAX_BYTES + 1)
    if not data:
        raise BrokenPicture(name, "the file is empty")
    if len(data) > MAX_BYTES:
        raise BrokenPicture(name, f"larger than {MAX_BYTES:,} bytes")
    return data, name


def picture_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height of the upright picture in a file, from its header alone: the rest may still prove broken.

    Raises:
        BrokenPicture: missing, not a picture, or of more than :data:`MAX_PIXELS`.
    """
    name = os.fspath(path)
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            width, height = _stored_size(picture)
            turned = picture.getexif().get(_ORIENTATION_TAG, 1) in _ON_ITS_SIDE
    # The header tells no more than that; what is wrong, reading the file tells best.
    except Exception:
        width, height = read_picture(path, name=name).size
        turned = False
    if width * height > MAX_PIXELS:
        raise BrokenPicture(name, _bomb(f"{width:,} x {height:,} pixels"))
    return (height, width) if turned else (width, height)


def _stored_size(picture: Image.Image) -> tuple[int, int]:
    """Width and height before it is put upright. Newer versions of Pillow give those of TIFF files upright already."""
    if isinstance(picture, TiffImageFile):
        return int(picture.tag_v2[IMAGEWIDTH]), int(picture.tag_v2[IMAGELENGTH])
    return picture.size


def _decode(data: bytes, name: str) -> Image.Image:
    try:
        with strict_decoding():
            picture = Image.open(io.BytesIO(data), formats=_FORMATS)
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise BrokenPicture(name, _bomb(f"{width:,} x {height:,} pixels"))
            picture.load()
    except BrokenPicture:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenPicture(name, _bomb(str(error))) from None
    except UnidentifiedImageError:
        raise BrokenPicture(name, _describe(data)) from None
    except MemoryError:
        raise BrokenPicture(name, "not enough memory to decode it") from None
    # Pillow's decoders meet broken data with whatever error their parsing happens to run into.
    except Exception as error:
        raise BrokenPicture(name, f"broken or cut off ({error or type(error).__name__})") from None
    return _upright(picture)


def _bomb(what: str) -> str:
    return f"possibly a decompression bomb: {what}; at most {MAX_PIXELS:,} pixels are read"


@contextmanager
def strict_decoding() -> Iterator[None]:
    """Hold Pillow to whole files: some libraries set ``LOAD_TRUNCATED_IMAGES`` for the whole process."""
    if not ImageFile.LOAD_TRUNCATED_IMAGES:
        yield
        return
    with _strict_lock:
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _describe(data: bytes) -> str:
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg", b"<head")):
        return "not a picture: it holds HTML or XML"
    if start.startswith((b"version https://git-lfs",)):
        return "not a picture but a Git LFS pointer; fetch the file itself"
    if all(byte in b"\t\n\r\f" or byte >= 32 for byte in data[:512]) and b"\x7f" not in data[:512]:
        return "not a picture: it holds text"
    return "not a picture in a known format, or its header is cut off"


def _upright(picture: Image.Image) -> Image.Image:
    try:
        orientation = picture.getexif().get(_ORIENTATION_TAG, 1)
    # Damaged EXIF says nothing of the pixels, which have been decoded whole by now.
    except Exception:
        return picture
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return picture if turn is None else picture.transpose(turn)


def flatten(picture: Image.Image, name: str = "<picture>") -> Image.Image:
    """``picture`` as ``"L"`` when it is grey, ``"RGB"`` otherwise: alpha on white, 16 bits scaled to 8.

    Raises:
        BrokenPicture: a mode with no agreed meaning in 8 bits (32-bit integers, floats, LAB).
    """
    mode = picture.mode
    if mode in ("L", "RGB") and "transparency" not in picture.info:
        return picture
    if mode.startswith("I;16") or (mode == "I" and picture.format in ("PNG", "PPM")):
        return _narrow(picture)
    if mode in ("I", "F", "LAB"):
        raise BrokenPicture(name, f"its pixels are of Pillow's mode {mode}; convert it to 8-bit RGB or 8/16-bit grey")
    if mode == "1" and "transparency" not in picture.info:
        return picture.convert("L")
    try:
        grey = mode in ("1", "L", "LA", "La")
        if grey or mode in ("RGBA", "RGBa", "PA") or "transparency" in picture.info:
            over = picture.convert("RGBA")
            white = Image.new("RGBA", over.size, "white")
            white.alpha_composite(over)
            return white.convert("L" if grey else "RGB")
        return picture.convert("RGB")
    except ValueError as error:
        raise BrokenPicture(name, f"cannot be converted to RGB from Pillow's mode {mode} ({error})") from None


def _narrow(picture: Image.Image) -> Image.Image:
    """16-bit grey in 8 bits, white where it has the one level that a PNG file may call transparent."""
    wide = np.asarray(picture).clip(0, 65_535).astype(np.uint32)
    grey = ((wide + 128) // 257).astype(np.uint8)
    clear = picture.info.get("transparency")
    if clear is not None:
        grey[wide == clear] = 255
    return Image.fromarray(grey)
