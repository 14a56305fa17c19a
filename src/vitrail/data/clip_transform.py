"""From a clip to a training sample: one random crop and one mirroring for all of its frames."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data.finish import Pixels, framed
from vitrail.data.jpeg_part import cut
from vitrail.data.preprocess import Preprocess, resize
from vitrail.data.transforms import Augment, mirror, random_box


class ClipTransform:
    """Brings frames ``(T, C0, H0, W0)`` to a model's size, as pixels ``(C, T, H, W)``.

    With ``augment=None`` every frame, finished, is what ``preprocess`` makes of it, bit for bit. Otherwise: random crop
    (or the plain fit), resize, flips. Randomness comes from torch's global generator alone.

    Args:
        preprocess: the model's preprocessing; gives size, interpolation and normalisation.
        augment: crop and flips, or None.

    Raises:
        VitrailError: an augmentation of colours, turns or erasing, which clips do not know.
    """

    def __init__(self, preprocess: Preprocess, augment: Augment | None = None) -> None:
        unknown = augment and (augment.randaugment or augment.color_jitter or augment.erasing or augment.quarter_turns)
        if unknown:
            raise VitrailError("clips know random crops and flips only: no RandAugment, colours, turns or erasing")
        self.preprocess = preprocess
        self.augment = augment

    def __call__(self, frames: UInt8[Tensor, "t c0 h0 w0"]) -> Pixels:
        """One random view of the clip."""
        augment = self.augment
        fitted = self._fit([self.preprocess.pixels(frame) for frame in frames])
        if augment is not None:
            across, down = torch.rand(2).tolist()
            fitted = mirror(fitted, across, down, augment)
        sample = framed(self.preprocess, fitted)
        return replace(sample, values=sample.values.transpose(0, 1).contiguous(), axis=-4)

    def _fit(self, frames: list[UInt8[Tensor, "c h0 w0"]]) -> UInt8[Tensor, "t c h w"]:
        """All frames cropped, or whole, in the same way."""
        preprocess, augment = self.preprocess, self.augment
        if augment is None or augment.scale is None:
            return torch.stack([preprocess.fit(frame) for frame in frames])
        height, width = frames[0].shape[-2:]
        box = random_box(height, width, augment.scale, augment.ratio)
        kind = (preprocess.size, preprocess.interpolation, preprocess.antialias)
        return torch.stack([resize(cut(frame, box), *kind) for frame in frames])
