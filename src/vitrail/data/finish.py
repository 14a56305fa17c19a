"""8-bit pixels, and what is left to do to them once a batch is on the model's device.

Pictures travel from the loader's workers to the device in 8 bits, a quarter of what they weigh as floats. There a
:class:`Finish` makes the model's input of them: it normalises, takes out what was drawn to be erased, and mixes
neighbours. All that is random about it is drawn with the sample and the batch; finishing itself draws nothing new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import default_collate

from vitrail.contracts import VitrailError
from vitrail.data.preprocess import Preprocess, normalize

Size = tuple[int, int]


class Noise(NamedTuple):
    """A box of a picture, in pixels, that becomes noise; ``seed`` determines the noise."""

    top: int
    left: int
    height: int
    width: int
    seed: int


class Mix(NamedTuple):
    """How each picture of a batch is mixed with the one before it.

    ``share`` is how much of itself it keeps. With a ``box`` (left, top, right, bottom, in pixels) the other picture
    fills that box (CutMix), otherwise both are added in proportion (Mixup).
    """

    share: float
    box: tuple[int, int, int, int] | None = None

    def __call__(self, images: Float[Tensor, "b *c h w"]) -> Float[Tensor, "b *c h w"]:
        """The mixed pictures; the given ones are overwritten."""
        if self.box is None:
            return images.roll(1, 0).mul_(1.0 - self.share).add_(images.mul_(self.share))
        left, top, right, bottom = self.box
        inside = images[..., top:bottom, left:right]
        inside.copy_(inside.roll(1, 0))
        return images


@dataclass(frozen=True)
class Finish:
    """From the 8-bit pixels of a batch to the model's input, on whichever device they lie.

    Attributes:
        preprocess: whose mean and deviation normalise.
        axis: where the bands are, counted from the end.
        insides: for each picture the height and width that it fills, from the upper left; beyond there are zeros. None:
            all of it.
        noises: for each picture what is erased, or None.
        mix: how neighbours are mixed in the end, or None.
    """

    preprocess: Preprocess
    axis: int = -3
    insides: tuple[Size | None, ...] = ()
    noises: tuple[Noise | None, ...] = ()
    mix: Mix | None = None

    def __call__(self, pixels: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The same bits on a CPU and on a GPU."""
        images = normalize(pixels, self.preprocess.mean, self.preprocess.std, self.axis)
        for image, inside in zip(images, self.insides, strict=False):
            if inside is not None:
                image[..., inside[0] :, :] = 0.0
                image[..., inside[1] :] = 0.0
        for image, noise in zip(images, self.noises, strict=False):
            if noise is not None:
                box = image[..., noise.top : noise.top + noise.height, noise.left : noise.left + noise.width]
                box.copy_(torch.randn(box.shape, generator=torch.Generator().manual_seed(noise.seed)))
        return images if self.mix is None else self.mix(images)

    def mixed(self, mix: Mix) -> Finish:
        """The same with neighbours mixed in the end."""
        return replace(self, mix=mix)


@dataclass(frozen=True)
class Pixels:
    """One sample's 8-bit pixels and how they will be finished.

    Attributes:
        values: ``(C, H, W)``, or with further dimensions before.
        preprocess: whose mean and deviation normalise.
        axis: where the bands are, counted from the end.
        inside: height and width of what is picture, from the upper left; None for all.
        noise: what is erased, or None.
    """

    values: UInt8[Tensor, "*shape"]
    preprocess: Preprocess
    axis: int = -3
    inside: Size | None = None
    noise: Noise | None = None

    def finished(self) -> Float[Tensor, "*shape"]:
        """The model's input for this sample alone."""
        values, finish = stack_pixels([self])
        return finish(values)[0]


def framed(preprocess: Preprocess, pixels: UInt8[Tensor, "*t c h0 w0"]) -> Pixels:
    """Fitted pixels as a sample; under ``resize="longest"`` in the upper left of the preprocessing's size.

    The frame comes last: what is turned or mirrored after it no longer lies where the finish looks for it.
    """
    if preprocess.resize != "longest":
        return Pixels(pixels, preprocess)
    height, width = pixels.shape[-2:]
    below, behind = preprocess.size[0] - height, preprocess.size[1] - width
    return Pixels(F.pad(pixels, (0, behind, 0, below)), preprocess, inside=(height, width))


Sample = Tensor | Pixels
"""What a view of a picture is: the model's input, or the 8-bit pixels that it will be made of."""


def stack_pixels(pixels: Sequence[Pixels]) -> tuple[UInt8[Tensor, "b ..."], Finish]:
    """Pixels of one size as a batch.

    Raises:
        VitrailError: they are to be normalised in different ways.
    """
    first = pixels[0]
    if any((one.preprocess, one.axis) != (first.preprocess, first.axis) for one in pixels):
        raise VitrailError("the samples of a batch are preprocessed in different ways")
    insides = tuple(one.inside for one in pixels) if any(one.inside for one in pixels) else ()
    noises = tuple(one.noise for one in pixels) if any(one.noise for one in pixels) else ()
    return torch.stack([one.values for one in pixels]), Finish(first.preprocess, first.axis, insides, noises)


Stacked = tuple[dict[str, Tensor], dict[str, Finish]]
"""The tensors of a batch by name, and how those that are still pixels will be finished."""


def collate(samples: Sequence[Mapping[str, Sample]]) -> Stacked:
    """Samples stacked, name by name.

    Raises:
        VitrailError: pixels that are to be normalised in different ways.
    """
    tensors: dict[str, Tensor] = {}
    finish: dict[str, Finish] = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        pixels = [value for value in values if isinstance(value, Pixels)]
        if len(pixels) == len(values):
            tensors[name], finish[name] = stack_pixels(pixels)
        else:
            tensors[name] = default_collate(values)
    return tensors, finish
