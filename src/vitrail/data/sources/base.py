"""What a data set is: pictures by number, with names and, where known, classes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data.picture import open_pixels, read_picture, read_pixels, to_pixels
from vitrail.data.undecoded import Undecoded


class Source(ABC):
    """A data set of pictures. Indices run from 0 to ``len(source) - 1``.

    Attributes:
        classes: the classes' names by number; empty when the pictures are unlabelled.
        labels: ``(n,)`` int64 class numbers, -1 where unlabelled.
        probabilities: ``(n, K)`` float32 class probabilities, where more is known of a picture than one class: how many
            annotators named each, how sure they were. None where it is not.
        picture_ids: ``(n,)`` int64, alike where two indices show the same picture (a CSV file may list one in several
            rows), which a split must keep together. None where each shows another.
        in_memory: whether :meth:`pixels` costs next to nothing, so that caching it would gain nothing.
        cacheable: whether :meth:`pixels` gives one picture, the same each time, so that a cache may stand for it. A
            source that draws what it gives does so from torch's global generator, which is seeded per sample.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32] | None = None
    picture_ids: NDArray[np.int64] | None = None
    in_memory: bool = False
    cacheable: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def name(self, index: int) -> str:
        """What the picture is called in messages: its path, where it has one."""

    @abstractmethod
    def picture(self, index: int) -> Image.Image:
        """The picture, upright, of mode ``"RGB"`` or ``"L"``.

        Raises:
            BrokenPicture: it cannot be read.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Where the pictures come from, in plain values for the run's configuration."""

    def pixels(self, index: int) -> UInt8[Tensor, "c h w"]:
        """The same as :meth:`picture` as a uint8 tensor of 1 or 3 channels."""
        return to_pixels(self.picture(index))

    def open(self, index: int) -> Undecoded:
        """The same, not decoded yet where a part of it can be decoded alone."""
        return self.pixels(index)

    def extras(self, index: int) -> Mapping[str, Tensor]:
        """What belongs to the picture besides its label, by name (a caption's tokens): for :attr:`Batch.extras`."""
        return {}

    def label(self, index: int) -> int | None:
        """The class number, or None when it is unknown."""
        label = int(self.labels[index])
        return None if label < 0 else label


class PackedNames:
    """Many paths in two arrays.

    A list of a million strings would be copied, page by page, into every forked worker, because reading a string
    writes its reference count.

    Args:
        names: the paths; any that the file system has, also such as cannot be decoded.
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        end = int(self._ends[index])
        begin = int(self._ends[index - 1]) if index % len(self) else 0
        return os.fsdecode(self._bytes[begin:end].tobytes())


class PathSource(Source):
    """Pictures by path.

    Args:
        paths: the files, by number.
        channels: 3 (RGB) or 1 (grey).
    """

    def __init__(self, paths: Iterable[str], channels: int) -> None:
        self.paths = PackedNames(paths)
        self.channels = channels

    def name(self, index: int) -> str:
        """The path."""
        return self.paths[index]

    def picture(self, index: int) -> Image.Image:
        """The decoded file."""
        return read_picture(self.paths[index], self.channels)

    def pixels(self, index: int) -> UInt8[Tensor, "c h w"]:
        """Those of the decoded file."""
        return read_pixels(self.paths[index], self.channels)

    def open(self, index: int) -> Undecoded:
        """The file."""
        return open_pixels(self.paths[index], self.channels)


class SubsetSource(Source):
    """Some pictures of another source, in a given order.

    Args:
        source: where they come from.
        indices: which, by their numbers there.
        part: what the subset is called in the configuration, e.g. ``"train"``.

    Raises:
        VitrailError: an index that the source does not have.
    """

    def __init__(self, source: Source, indices: Sequence[int] | NDArray[np.int64], part: str = "subset") -> None:
        self.source = source
        self.indices = np.asarray(indices, dtype=np.int64)
        if self.indices.size and not (self.indices.min() >= 0 and self.indices.max() < len(source)):
            raise VitrailError(f"A subset names pictures outside 0 … {len(source) - 1}")
        self.part = part
        self.classes = source.classes
        self.labels = source.labels[self.indices]
        self.probabilities = None if source.probabilities is None else source.probabilities[self.indices]
        self.picture_ids = None if source.picture_ids is None else source.picture_ids[self.indices]
        self.in_memory = source.in_memory
        self.cacheable = source.cacheable

    def name(self, index: int) -> str:
        """The name in the whole source."""
        return self.source.name(int(self.indices[index]))

    def picture(self, index: int) -> Image.Image:
        """The picture of the whole source."""
        return self.source.picture(int(self.indices[index]))

    def pixels(self, index: int) -> UInt8[Tensor, "c h w"]:
        """The pixels of the whole source."""
        return self.source.pixels(int(self.indices[index]))

    def open(self, index: int) -> Undecoded:
        """The picture of the whole source."""
        return self.source.open(int(self.indices[index]))

    def extras(self, index: int) -> Mapping[str, Tensor]:
        """Those of the whole source."""
        return self.source.extras(int(self.indices[index]))

    def describe(self) -> dict[str, Any]:
        """The whole source's description with the part's name and length."""
        return {**self.source.describe(), "part": self.part, "length": len(self)}
