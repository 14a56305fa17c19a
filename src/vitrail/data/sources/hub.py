"""Data sets in Hugging Face's ``datasets`` format: from the hub, its local cache, or a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data.files import BrokenPicture
from vitrail.data.picture import open_pixels, read_picture, read_pixels
from vitrail.data.sources.base import Source
from vitrail.data.undecoded import Undecoded


class HubSource(Source):
    """One split of a ``datasets`` data set with an image column.

    Args:
        name: a name on the hub (``"uoft-cs/cifar10"``), or a local folder: one written by ``save_to_disk``, or any
            that ``load_dataset`` understands.
        split: which split.
        online: False reads only what is on this machine (the folder, or the hub's cache).
        labelled: False ignores the label column.

    Attributes:
        label_column: where the labels were read from; None where there is no such column, or it is ignored.

    Raises:
        VitrailError: the ``datasets`` package or the data set is missing, there is no such split, or no image column.
    """

    def __init__(self, name: str, split: str = "train", online: bool = False, labelled: bool = True) -> None:
        self.path = name
        self.split = split
        table = load_splits(name, online)
        if split not in table:
            raise VitrailError(f"hub:{name} has no split {split!r}; it has {', '.join(table)}")
        self._rows, self._column, self.label_column = _columns(table[split], name, labelled)
        self.classes: tuple[str, ...] = ()
        self.labels = np.full(len(self._rows), -1, dtype=np.int64)
        if len(self._rows) == 0:
            raise VitrailError(f"hub:{name}: the split {split!r} is empty")
        if self.label_column is not None:
            self.classes, self.labels = _labels(self._rows, self.label_column)

    def name(self, index: int) -> str:
        """Data set, split and row."""
        return f"hub:{self.path}/{self.split}#{index}"

    def picture(self, index: int) -> Image.Image:
        """The decoded picture, RGB."""
        return read_picture(self._file(index), 3, self.name(index))

    def pixels(self, index: int) -> UInt8[Tensor, "c h w"]:
        """Those of the decoded picture."""
        return read_pixels(self._file(index), 3, self.name(index))

    def open(self, index: int) -> Undecoded:
        """The picture as it is stored."""
        return open_pixels(self._file(index), 3, self.name(index))

    def _file(self, index: int) -> bytes | str:
        cell = self._rows[index][self._column]
        if cell is None or not (cell["bytes"] or cell["path"]):
            raise BrokenPicture(self.name(index), "the row holds no picture")
        return cell["bytes"] or cell["path"]

    def describe(self) -> dict[str, Any]:
        """Kind, name, split and length."""
        return {"kind": "hub", "name": self.path, "split": self.split, "length": len(self)}


def load_splits(name: str, online: bool) -> dict[str, Any]:
    """The splits of a data set by name, as ``datasets.Dataset`` each.

    Raises:
        VitrailError: as :class:`HubSource`.
    """
    try:
        with _network(online):
            import datasets

            if (Path(name) / "dataset_dict.json").is_file() or (Path(name) / "state.json").is_file():
                found = datasets.load_from_disk(name)
            else:
                found = datasets.load_dataset(name)
    except ModuleNotFoundError:
        raise VitrailError(f"hub:{name} needs the package datasets: pip install 'vitrail[scale]'") from None
    # The package raises many kinds of errors for a data set that is not there.
    except Exception as error:
        hint = "" if online else " (offline: only local data was looked at; ask for online use to download it)"
        raise VitrailError(f"hub:{name} cannot be loaded{hint}: {error}") from None
    return {str(split): rows for split, rows in found.items()} if isinstance(found, dict) else {"train": found}


@contextmanager
def _network(online: bool) -> Iterator[None]:
    """Keep ``datasets`` and ``huggingface_hub`` off the network, whether or not they have been imported already."""
    if online:
        yield
        return
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        from datasets import config
        from huggingface_hub import constants

        flags = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
        config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = flags
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _columns(rows: Any, name: str, labelled: bool) -> tuple[Any, str, str | None]:
    import datasets

    images = [column for column, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    if not images:
        raise VitrailError(f"hub:{name} has no image column; its columns are {', '.join(rows.features)}")
    column = "image" if "image" in images else images[0]
    # Undecoded: broken pictures and orientation are this package's business.
    rows = rows.cast_column(column, datasets.Image(decode=False))
    if not labelled:
        return rows, column, None
    labels = [key for key, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)]
    labels += [key for key in ("label", "labels", "class") if key in rows.features and key not in labels]
    return rows, column, labels[0] if labels else None


def _labels(rows: Any, column: str) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes, and each row's class number: -1 where it states none (-1 of a ClassLabel, None, an empty text)."""
    import datasets

    kind, values = rows.features[column], rows[column][:]
    if isinstance(kind, datasets.ClassLabel):
        return tuple(kind.names), np.array([-1 if value is None else value for value in values], dtype=np.int64)
    names = tuple(str(value) for value in sorted({value for value in values if value not in (None, "")}))
    numbers = {name: number for number, name in enumerate(names)}
    return names, np.array([numbers.get(str(value), -1) for value in values], dtype=np.int64)
