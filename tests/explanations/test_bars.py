"""Bars beside a picture: as long as their confidences, one for each label."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vitrail.contracts import VitrailError
from vitrail.explanations.bars import BAR, WIDE, label_bars
from vitrail.explanations.figures import DPI, to_image

GREY = Image.new("RGB", (60, 40), (90, 90, 90))


def blue_rows(picture: Image.Image, labels: list[str], confidences: list[float]) -> list[int]:
    """Pixels of each bar's length, from the top."""
    pixels = np.asarray(to_image(label_bars(picture, labels, confidences)).convert("RGB")).astype(int)
    colour = [int(BAR[i : i + 2], 16) for i in (1, 3, 5)]
    lengths = (np.abs(pixels - colour).sum(-1) < 12).sum(axis=1)
    starts = [y for y in range(1, len(lengths)) if lengths[y] and not lengths[y - 1]]
    return [int(lengths[y + 5]) for y in starts]


@pytest.mark.parametrize("picture", [GREY, GREY.resize((300, 20)), GREY.resize((10, 200))])
def test_every_label_has_a_bar_as_long_as_its_confidence(picture: Image.Image) -> None:
    confidences = [0.6, 0.3, 0.05, 0.05]
    lengths = blue_rows(picture, ["a", "b", "c", "d" * 80], confidences)
    assert lengths == pytest.approx([c * WIDE * DPI for c in confidences], abs=3)


def test_labels_without_confidences_are_refused() -> None:
    for labels, confidences in (([], []), (["a"], [0.5, 0.5])):
        with pytest.raises(VitrailError, match="cannot be drawn"):
            label_bars(GREY, labels, confidences)
