"""Reading frames of one clip: a folder of pictures, an animated picture, or an array; or saying why it cannot be read.

Policies (each tested):

* A folder's frames are its pictures, sorted by name with numbers counted (``2.png`` before ``10.png``), of one size.
* Animations (GIF, WebP, APNG) give their frames as shown, over white where they are transparent; times are not looked
  at.
* ``.npy`` holds ``(T, H, W)`` or ``(T, H, W, C)`` of bytes, 1 or 3 channels; pickled objects are refused.
* A clip shorter than what is asked for is broken: no frame is shown twice. Where there are enough frames for the
  number but not for the stride, the stride shrinks to the largest that fits.
"""

from __future__ import annotations

import io
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data.files import (
    EXTENSIONS,
    BrokenPicture,
    naming_root,
    printable,
    read_file,
    require_file,
    walk_folders,
)
from vitrail.data.picture import MAX_PIXELS, flatten, read_picture, strict_decoding, to_pixels

ANIMATED = (".gif", ".webp", ".apng", ".png")
"""Endings of files that may hold several frames."""

ARRAY = ".npy"
_FORMATS = ("GIF", "WEBP", "PNG")


class Clip(ABC):
    """An open clip.

    Attributes:
        name: what it is called in messages.
    """

    name: str

    @abstractmethod
    def __len__(self) -> int:
        """How many frames there are."""

    @abstractmethod
    def frames(self, numbers: Sequence[int]) -> UInt8[Tensor, "t c h w"]:
        """Chosen frames, in ascending order of their numbers.

        Raises:
            BrokenPicture: one cannot be read, or has another size than the first.
        """


class FolderClip(Clip):
    """The pictures of a folder as frames.

    Args:
        folder: where they lie.
        channels: 3 (RGB) or 1 (grey).
    """

    def __init__(self, folder: Path, channels: int) -> None:
        self.name = os.fspath(folder)
        self.channels = channels
        self._files = sorted(still_pictures(folder), key=_counted)

    def __len__(self) -> int:
        return len(self._files)

    def frames(self, numbers: Sequence[int]) -> UInt8[Tensor, "t c h w"]:
        """Decoded files; no others are opened."""
        return _stacked(self.name, [to_pixels(read_picture(self._files[n], self.channels)) for n in numbers])


class AnimatedClip(Clip):
    """The frames of an animated picture.

    Args:
        file: GIF, WebP or APNG.
        channels: 3 (RGB) or 1 (grey).

    Raises:
        BrokenPicture: empty, cut off, too large, not a picture.
    """

    def __init__(self, file: Path, channels: int) -> None:
        self.name = os.fspath(file)
        self.channels = channels
        data = read_file(file, self.name)
        try:
            with strict_decoding():
                self._picture = Image.open(io.BytesIO(data), formats=_FORMATS)
                self._count = _frame_count(self._picture)
        except UnidentifiedImageError:
            raise BrokenPicture(self.name, "not an animation in a known format (GIF, WebP, APNG)") from None
        # Pillow's decoders meet broken data with whatever error their parsing happens to run into.
        except Exception as error:
            raise BrokenPicture(self.name, f"broken or cut off ({error or type(error).__name__})") from None
        width, height = self._picture.size
        if width * height > MAX_PIXELS:
            raise BrokenPicture(self.name, f"possibly a decompression bomb: {width:,} x {height:,} pixels")

    def __len__(self) -> int:
        return self._count

    def frames(self, numbers: Sequence[int]) -> UInt8[Tensor, "t c h w"]:
        """Decoded one after the other: a frame is often stored as what has changed since the one before."""
        found = []
        for number in numbers:
            try:
                with strict_decoding():
                    self._picture.seek(number)
                    frame = self._picture.copy()
            except Exception as error:
                raise BrokenPicture(
                    self.name, f"frame {number} is broken or cut off ({error or type(error).__name__})"
                ) from None
            found.append(to_pixels(flatten(frame, self.name).convert("RGB" if self.channels == 3 else "L")))
        return _stacked(self.name, found)


class ArrayClip(Clip):
    """Frames in a ``.npy`` file, of which only the chosen ones are read.

    Args:
        file: the array, ``(T, H, W)`` or ``(T, H, W, C)`` uint8.
        channels: 3 (RGB) or 1 (grey).

    Raises:
        BrokenPicture: no array of that kind, or cut off.
    """

    def __init__(self, file: Path, channels: int) -> None:
        self.name = os.fspath(file)
        self.channels = channels
        require_file(file, self.name)
        try:
            array: NDArray[np.uint8] = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise BrokenPicture(self.name, f"no array that can be read ({error})") from None
        grey = array.ndim == 3
        if array.dtype != np.uint8 or not (grey or (array.ndim == 4 and array.shape[3] in (1, 3))) or 0 in array.shape:
            what = f"{array.shape} of {array.dtype}"
            raise BrokenPicture(
                self.name, f"a clip is (T, H, W) or (T, H, W, C) of bytes with 1 or 3 channels, not {what}"
            )
        self._array = array[..., None] if grey else array

    def __len__(self) -> int:
        return len(self._array)

    def frames(self, numbers: Sequence[int]) -> UInt8[Tensor, "t c h w"]:
        """The chosen rows."""
        chosen = np.ascontiguousarray(self._array[list(numbers)].transpose(0, 3, 1, 2))
        if chosen.shape[1] == self.channels:
            return torch.from_numpy(chosen)
        mode = "RGB" if self.channels == 3 else "L"
        pictures = [Image.fromarray(row[0] if len(row) == 1 else row.transpose(1, 2, 0)) for row in chosen]
        return _stacked(self.name, [to_pixels(picture.convert(mode)) for picture in pictures])


def _frame_count(picture: Image.Image) -> int:
    several = isinstance(picture, GifImageFile | PngImageFile | WebPImageFile)
    return picture.n_frames if several else 1


def open_clip(path: str | os.PathLike[str], channels: int = 3) -> Clip:
    """A clip by its path; nothing but headers is read yet.

    Raises:
        BrokenPicture: nothing there, or nothing that is a clip.
    """
    path = Path(path)
    if path.is_dir():
        return FolderClip(path, channels)
    if path.suffix.lower() == ARRAY:
        return ArrayClip(path, channels)
    return AnimatedClip(path, channels)


def frame_numbers(available: int, count: int, stride: int, start: float) -> list[int]:
    """Which frames are taken of a clip.

    Args:
        available: frames of the clip.
        count: how many are wanted.
        stride: from one to the next, at most; smaller where the clip is too short for it.
        start: where among the possible beginnings, 0 … 1 (below 1).

    Raises:
        ValueError: fewer frames than wanted.
    """
    if available < count:
        raise ValueError(f"it has {available} frames, {count} are needed")
    step = min(stride, (available - 1) // (count - 1)) if count > 1 else 1
    first = int(start * (available - (count - 1) * step))
    return [first + step * number for number in range(count)]


def still_pictures(folder: Path) -> list[Path]:
    """The visible files of a folder that are named like pictures; a link to nothing is one, which reading it names."""
    try:
        return [f for f in folder.iterdir() if f.suffix.lower() in EXTENSIONS and f.name[0] != "." and not f.is_dir()]
    except OSError as error:
        raise BrokenPicture(os.fspath(folder), f"cannot be listed: {error.strerror or error}") from None


def is_animated(file: Path) -> bool:
    """Whether a file holds more than one frame; a broken one does not."""
    try:
        return len(AnimatedClip(file, 3)) > 1
    except BrokenPicture:
        return False


def _counted(file: Path) -> tuple[list[tuple[bool, int, str]], str]:
    """Sorts ``2`` before ``10``; the name itself decides between ``2`` and ``02``."""
    parts = re.split(r"(\d+)", file.name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts], file.name


def _stacked(name: str, frames: list[Tensor]) -> Tensor:
    odd = next((frame for frame in frames if frame.shape != frames[0].shape), None)
    if odd is not None:
        sizes = " and ".join(f"{shape[1]} x {shape[2]}" for shape in (frames[0].shape, odd.shape))
        raise BrokenPicture(name, f"its frames differ in size: {sizes} (height x width)")
    return torch.stack(frames)


def list_clips(root: str | os.PathLike[str]) -> list[Path]:
    """The clips below a folder: animations, arrays, and folders whose pictures are frames.

    GIF, APNG and ``.npy`` files are a clip each. Whether the PNG and WebP files of a folder are, or are frames of one,
    its first such file says: it has several frames or one. Hidden files and folders are left out; links are followed,
    as :func:`vitrail.data.list_pictures` follows them.

    Returns:
        Paths sorted by name.

    Raises:
        VitrailError: no such folder, one that cannot be listed, or no clips in it.
    """
    top = Path(root)
    with naming_root(root):
        if not top.is_dir():
            raise VitrailError(f"{printable(root)}: no such folder")
        folders = list(walk_folders(top))
    found = [clip for folder, names in folders for clip in _clips_in(folder, names)]
    if not found:
        raise VitrailError(
            f"{printable(root)}: no clips there; a clip is a folder of frames, a GIF, WebP or APNG with "
            "several frames, or an .npy of (T, H, W, C) bytes"
        )
    return sorted(found)


def _clips_in(folder: Path, names: list[str]) -> list[Path]:
    files = [folder / name for name in names]
    clips = [file for file in files if file.suffix.lower() in (".gif", ".apng", ARRAY)]
    stills = [file for file in files if file.suffix.lower() in EXTENSIONS and file not in clips]
    doubtful = [file for file in stills if file.suffix.lower() in ANIMATED]
    if doubtful and is_animated(doubtful[0]):
        return clips + doubtful
    return [*clips, folder] if stills else clips
