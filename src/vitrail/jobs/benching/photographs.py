"""Photographs to measure with: crops of the two that come with scikit-learn, as JPEG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

QUALITY = 90
LEAST = 0.5
"""Share of a photograph's sides that the smallest crop has."""


def write_photographs(folder: Path, count: int, size: tuple[int, int] = (500, 375), seed: int = 0) -> list[Path]:
    """Write crops of random place, scale and mirror image.

    Args:
        folder: where to; made if it is not there.
        count: how many.
        size: ``(width, height)`` in pixels: those of an ordinary ImageNet picture.
        seed: the same one gives the same files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    originals = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    random = np.random.default_rng(seed)
    files = []
    for number in range(count):
        original = originals[number % len(originals)]
        largest = min(original.width / size[0], original.height / size[1])
        scale = largest * random.uniform(LEAST, 1.0)
        width, height = scale * size[0], scale * size[1]
        left, top = random.uniform(0, original.width - width), random.uniform(0, original.height - height)
        crop = original.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        if random.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        files.append(folder / f"{number:05}.jpg")
        crop.save(files[-1], quality=QUALITY)
    return files
