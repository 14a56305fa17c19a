"""From a clip to a training sample: one random crop and one mirroring for all of its frames."""

from __future__ import annotations

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data.finish import Pixels, framed
from vitrail.data.preprocess import Preprocess, resize
from vitrail.data.transforms import Augment, random_box


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
        preprocess, augment = self.preprocess, self.augment
        pixels = [preprocess.pixels(frame) for frame in frames]
        if augment is None or augment.scale is None:
            samples = [framed(preprocess, preprocess.fit(frame)) for frame in pixels]
            fitted, inside = torch.stack([sample.values for sample in samples]), samples[0].inside
        else:
            top, left, height, width = random_box(frames.shape[2], frames.shape[3], augment.scale, augment.ratio)
            kind = (preprocess.size, preprocess.interpolation, preprocess.antialias)
            cut = [frame[:, top : top + height, left : left + width] for frame in pixels]
            fitted, inside = torch.stack([resize(frame, *kind) for frame in cut]), None
        if augment is not None:
            across, down = torch.rand(2).tolist()
            flips = [a for a, draw, chance in ((3, across, augment.hflip), (2, down, augment.vflip)) if draw < chance]
            fitted = fitted.flip(flips) if flips else fitted
        return Pixels(fitted.transpose(0, 1).contiguous(), preprocess, axis=-4, inside=inside)
