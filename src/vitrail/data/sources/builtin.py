"""Data sets that come with an installed package: scikit-learn's digits and the ELPV solar cells."""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data.picture import read_picture
from vitrail.data.sources.base import Source


class DigitsSource(Source):
    """1,797 handwritten digits, grey, 8 x 8 (UCI; ships with scikit-learn), their 17 levels scaled to 0 … 255."""

    def __init__(self) -> None:
        # Here, since scikit-learn takes a second to import, which other data should not cost.
        from sklearn.datasets import load_digits

        digits, labels = load_digits(return_X_y=True)
        levels = np.asarray(digits, dtype=np.int64).reshape(-1, 1, 8, 8)
        self.data = torch.from_numpy(((levels * 255 + 8) // 16).astype(np.uint8))
        self.labels = np.asarray(labels, dtype=np.int64)
        self.classes = tuple("0123456789")
        self.in_memory = True

    def name(self, index: int) -> str:
        """``digits#`` and the number."""
        return f"digits#{index}"

    def picture(self, index: int) -> Image.Image:
        """The picture, mode ``"L"``."""
        return Image.fromarray(self.data[index, 0].numpy())

    def pixels(self, index: int) -> UInt8[Tensor, "1 h w"]:
        """A view of the pixels."""
        return self.data[index]

    def describe(self) -> dict[str, Any]:
        """Kind and length."""
        return {"kind": "digits", "length": len(self)}


class ElpvSource(Source):
    """2,624 electroluminescence photographs of solar cells, grey, 300 x 300 (Deitsch et al. 2019).

    A cell is ``"defective"`` when its stated defect probability is at least 0.5, as in the publication. The
    probability itself (0, 1/3, 2/3 or 1: whether the expert saw a defect, and how surely) is in ``probabilities``.

    Attributes:
        cell_type: ``(n,)`` text, ``"mono"`` or ``"poly"`` (crystalline).

    Raises:
        VitrailError: the package ``elpv-dataset`` is not installed, or its table is not as expected.
    """

    def __init__(self) -> None:
        try:
            self._folder = resources.files("elpv_dataset") / "data"
        except ModuleNotFoundError:
            raise VitrailError("The elpv data set is a package: pip install elpv-dataset==1.0.0.post1") from None
        rows = [line.split() for line in (self._folder / "labels.csv").read_text("utf-8").splitlines() if line.strip()]
        if not rows or any(len(row) != 3 for row in rows):
            raise VitrailError("elpv_dataset/data/labels.csv: every line should hold a path, a probability and a type")
        self._names = [row[0] for row in rows]
        defect = np.array([float(row[1]) for row in rows], dtype=np.float32)
        self.probabilities = np.stack([1 - defect, defect], axis=1)
        self.cell_type = np.array([row[2] for row in rows])
        self.classes = ("functional", "defective")
        self.labels = (defect >= 0.5).astype(np.int64)

    def name(self, index: int) -> str:
        """The path within the package's data folder."""
        return self._names[index]

    def picture(self, index: int) -> Image.Image:
        """The photograph, mode ``"L"``."""
        return read_picture((self._folder / self._names[index]).read_bytes(), 1, self._names[index])

    def describe(self) -> dict[str, Any]:
        """Kind and length."""
        return {"kind": "elpv", "length": len(self)}
