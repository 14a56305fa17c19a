"""The IDX files of MNIST and its family (Fashion-MNIST, KMNIST, EMNIST …), plain or gzipped."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data.files import printable
from vitrail.data.sources.base import Source

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""The ten classes of Fashion-MNIST (Xiao et al. 2017), by number."""

_FASHION_FOLDERS = (Path("/usr/share/datasets/fashion-mnist"), Path("/usr/share/dataset/fashion-mnist"))
_PARTS = {"train": "train", "val": "(?:t10k|test)"}
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class IdxSource(Source):
    """A pair of IDX files: grey 8-bit pictures of one size, and their labels.

    Args:
        images: ``…-images-idx3-ubyte``, or with ``.gz``.
        labels: ``…-labels-idx1-ubyte``, or with ``.gz``.
        classes: the names by label value; default: the values themselves. Values that do not occur are left out of
            the classes by default, so EMNIST's letters (from 1 on) get the numbers from 0 on.

    Raises:
        VitrailError: a file that is missing, cut off, not IDX or of another type; counts that differ; a label
            without name.
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        labels: str | os.PathLike[str],
        classes: tuple[str, ...] | None = None,
    ) -> None:
        self.path = Path(images)
        pictures, values = read_idx(self.path), read_idx(Path(labels))
        if pictures.ndim != 3 or pictures.dtype != np.uint8 or pictures.size == 0:
            what = f"{pictures.shape} of {pictures.dtype}"
            raise VitrailError(f"{printable(self.path)}: pictures must be (n, height, width) of bytes, not {what}")
        if values.ndim != 1 or values.dtype != np.uint8:
            raise VitrailError(f"{printable(labels)}: labels must be one row of bytes, not {values.shape}")
        if len(pictures) != len(values):
            raise VitrailError(
                f"{printable(self.path)} holds {len(pictures)} pictures but {printable(labels)} {len(values)} labels"
            )
        if classes is None:
            found, numbers = np.unique(values, return_inverse=True)
            self.classes, self.labels = tuple(map(str, found.tolist())), numbers.astype(np.int64)
        else:
            self.classes, self.labels = classes, values.astype(np.int64)
            if self.labels.max() >= len(classes):
                raise VitrailError(
                    f"{printable(labels)}: label {self.labels.max()} has no name; {len(classes)} classes were given"
                )
        self.data = torch.from_numpy(pictures)[:, None]
        self.in_memory = True

    def name(self, index: int) -> str:
        """The file and the picture's number in it."""
        return f"{self.path.name}#{index}"

    def picture(self, index: int) -> Image.Image:
        """The picture, mode ``"L"``."""
        return Image.fromarray(self.data[index, 0].numpy())

    def pixels(self, index: int) -> UInt8[Tensor, "1 h w"]:
        """A view of the pixels."""
        return self.data[index]

    def describe(self) -> dict[str, Any]:
        """Kind, file and length."""
        return {"kind": "idx", "path": os.fspath(self.path), "length": len(self)}


def read_idx(path: Path) -> NDArray[Any]:
    """The array in an IDX file, gzipped or not (told by its content).

    Raises:
        VitrailError: missing, cut off, too long, or not IDX.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise VitrailError(f"{printable(path)}: the gzip file is cut off or damaged ({error})") from None
    except OSError as error:
        raise VitrailError(f"{printable(path)}: cannot be read: {error.strerror or error}") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _TYPES or data[3] == 0:
        raise VitrailError(f"{printable(path)}: is not an IDX file (wrong magic number)")
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise VitrailError(f"{printable(path)}: the IDX header is cut off")
    shape = tuple(np.frombuffer(data, ">i4", count=data[3], offset=4).tolist())
    dtype = np.dtype(_TYPES[data[2]])
    expected = start + dtype.itemsize * int(np.prod(shape, dtype=object))
    if min(shape) < 0 or len(data) != expected:
        raise VitrailError(f"{printable(path)}: {shape} should take {expected:,} bytes, but there are {len(data):,}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _find(folder: Path, part: str, what: str, rank: int) -> Path | None:
    pattern = re.compile(rf"(.*[-_.])?{_PARTS[part]}[-_.]{what}[-_.]idx{rank}[-_.]ubyte(\.gz)?")
    hits = sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name))
    return hits[0] if hits else None


def open_fashion_mnist() -> tuple[IdxSource, IdxSource]:
    """Fashion-MNIST's training and test pictures from where Debian's package puts them.

    Raises:
        VitrailError: it is not installed.
    """
    for folder in _FASHION_FOLDERS:
        if folder.is_dir():
            return open_idx_folder(folder, FASHION_CLASSES)
    raise VitrailError(
        "fashion-mnist is not installed here. On Debian or Ubuntu: apt-get install dataset-fashion-mnist (non-free); "
        "elsewhere give the folder that holds its four ubyte files instead of the name"
    )


def open_idx_folder(folder: Path, classes: tuple[str, ...] | None = None) -> tuple[IdxSource, IdxSource]:
    """The training and test part of an IDX folder.

    Raises:
        VitrailError: one of the four files is missing.
    """
    sources = []
    for part in ("train", "val"):
        images, labels = _find(folder, part, "images", 3), _find(folder, part, "labels", 1)
        if images is None or labels is None:
            lost = "images-idx3" if images is None else "labels-idx1"
            name = "train" if part == "train" else "t10k"
            raise VitrailError(f"{printable(folder)}: the IDX file {name}-{lost}-ubyte (or .gz) is missing")
        sources.append(IdxSource(images, labels, classes))
    return sources[0], sources[1]


def holds_idx(folder: Path) -> bool:
    """Whether ``folder`` has the pictures of an IDX data set."""
    return any(_find(folder, part, "images", 3) is not None for part in _PARTS)
