"""From a picture to a training sample: random crop, flips, RandAugment, colour jitter, erasing.

All randomness comes from torch's global generator and nowhere else, so that seeding it before a sample determines
the sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from vitrail.contracts import VitrailError
from vitrail.data.finish import Noise, Pixels, framed
from vitrail.data.jpeg_part import Box
from vitrail.data.preprocess import Preprocess, resize, to_picture, to_pixels
from vitrail.data.undecoded import PartTransform, Undecoded, part, size, whole

_ERASED_SHARE = (0.02, 0.33)
_ERASED_RATIO = (1 / 3.3, 1 / 0.3)
"""Area of an erased box as a share of the picture's, and its width / height (Zhong et al. 2020, section 4.1)."""


@dataclass(frozen=True)
class Augment:
    """The knobs of augmentation; the defaults are the recipe of DeiT (Touvron et al. 2021, Table 9).

    Attributes:
        scale: share of the picture's area that the random crop takes (Szegedy et al. 2015); None for the plain
            resize and centre crop of evaluation.
        ratio: the random crop's width / height, drawn log-uniformly.
        hflip: probability of a left-right flip.
        vflip: probability of a top-bottom flip.
        quarter_turns: turn by 0, 90, 180 or 270 degrees, equally likely (pictures without an up: cells, satellites).
        randaugment: ``(operations, magnitude of 30)`` of RandAugment (Cubuk et al. 2020); None for none.
        color_jitter: strength of random brightness, contrast and saturation; 0 for none.
        erasing: probability of replacing a random box by noise (Zhong et al. 2020).
    """

    scale: tuple[float, float] | None = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    vflip: float = 0.0
    quarter_turns: bool = False
    randaugment: tuple[int, int] | None = (2, 9)
    color_jitter: float = 0.0
    erasing: float = 0.25

    def __post_init__(self) -> None:
        if self.scale is not None and not 0.0 < self.scale[0] <= self.scale[1] <= 1.0:
            raise VitrailError(f"Augment: scale must be 0 < low <= high <= 1, not {self.scale}")
        if not 0.0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise VitrailError(f"Augment: ratio must be 0 < low <= high, not {self.ratio}")
        for name, value in (("hflip", self.hflip), ("vflip", self.vflip), ("erasing", self.erasing)):
            if not 0.0 <= value <= 1.0:
                raise VitrailError(f"Augment: {name} is a probability, 0 … 1, not {value}")
        if self.randaugment is not None and not (self.randaugment[0] >= 0 and 0 <= self.randaugment[1] <= 30):
            raise VitrailError(f"Augment: randaugment is (operations, magnitude 0 … 30), not {self.randaugment}")
        if not 0.0 <= self.color_jitter < math.inf:
            raise VitrailError(f"Augment: color_jitter must be 0 or more, not {self.color_jitter}")


class TrainTransform(PartTransform):
    """Augment a picture and bring it to the model's size.

    It gives 8-bit pixels; finished, they equal what ``preprocess`` gives, bit for bit, where ``augment`` is None.
    Otherwise: turn, random crop (or the plain fit), resize, flips, RandAugment, colour jitter; normalising and erasing
    are left to the finish.

    Args:
        preprocess: the model's preprocessing; gives size, interpolation and normalisation.
        augment: what is random, or None.

    Raises:
        VitrailError: RandAugment or colour jitter for a number of bands other than 1 or 3.
    """

    def __init__(self, preprocess: Preprocess, augment: Augment | None = None) -> None:
        self.preprocess = preprocess
        self.augment = augment
        self._colours: list[v2.Transform] = []
        if augment is None:
            return
        if (augment.randaugment or augment.color_jitter) and preprocess.bands not in (1, 3):
            raise VitrailError(
                f"RandAugment and colour jitter work on 1 or 3 bands, the preprocessing has {preprocess.bands}; "
                "set randaugment=None and color_jitter=0"
            )
        if augment.randaugment:
            fill = [round(255 * mean) for mean in preprocess.mean]
            # On Pillow pictures its operations are several times faster than on tensors.
            self._colours += [
                v2.Lambda(to_picture),
                v2.RandAugment(*augment.randaugment, interpolation="bilinear", fill=fill),
                v2.Lambda(to_pixels),
            ]
        if augment.color_jitter:
            strength = augment.color_jitter
            self._colours.append(v2.ColorJitter(strength, strength, strength))

    def __call__(self, picture: Image.Image | Undecoded) -> Pixels:
        """One random view of ``picture`` (see :meth:`Preprocess.__call__` for what else is accepted)."""
        augment = self.augment
        opened = to_pixels(picture) if isinstance(picture, Image.Image) else picture
        if augment is None:
            return framed(self.preprocess, self.preprocess.fit(self.preprocess.pixels(whole(opened))))
        turned, across, down = torch.rand(3).tolist()
        pixels = self._crop(opened, int(4 * turned) if augment.quarter_turns else 0, augment)
        pixels = mirror(pixels, across, down, augment)
        for colour in self._colours:
            pixels = colour(pixels)
        sample = framed(self.preprocess, pixels)
        if float(torch.rand(())) >= augment.erasing:
            return sample
        return replace(sample, noise=draw_noise(*sample.values.shape[1:]))

    def _crop(self, picture: Undecoded, turns: int, augment: Augment) -> Tensor:
        """The picture turned, then cropped and resized; of a file no more is decoded than that."""
        preprocess = self.preprocess
        if augment.scale is None:
            return preprocess.fit(turn(preprocess.pixels(whole(picture)), turns))
        height, width = size(picture)
        shape = (width, height) if turns % 2 else (height, width)
        box = turn_back(random_box(*shape, augment.scale, augment.ratio), turns, height, width)
        crop = turn(preprocess.pixels(part(picture, box)), turns)
        return resize(crop, preprocess.size, preprocess.interpolation, preprocess.antialias)


def turn(pixels: UInt8[Tensor, "c h w"], turns: int) -> UInt8[Tensor, "c h2 w2"]:
    """Quarter turns against the clock. None costs nothing: :func:`torch.rot90` would copy the picture all the same."""
    return torch.rot90(pixels, turns, (1, 2)) if turns else pixels


def mirror(
    pixels: UInt8[Tensor, "*t c h w"], across: float, down: float, augment: Augment
) -> UInt8[Tensor, "*t c h w"]:
    """Left-right and top-bottom flips, each where its draw (uniform in 0 … 1) falls below its probability."""
    flips = [axis for axis, draw, chance in ((-1, across, augment.hflip), (-2, down, augment.vflip)) if draw < chance]
    return pixels.flip(flips) if flips else pixels


def turn_back(box: Box, turns: int, height: int, width: int) -> Box:
    """Where a box of a turned picture lies in the picture itself.

    Args:
        box: in the picture after ``turns`` quarter turns against the clock, as :func:`torch.rot90` makes them.
        turns: 0 to 3.
        height: of the picture itself.
        width: of the picture itself.
    """
    top, left, tall, wide = box
    match turns:
        case 0:
            return box
        case 1:
            return left, width - top - tall, wide, tall
        case 2:
            return height - top - tall, width - left - wide, tall, wide
        case _:
            return height - left - wide, top, wide, tall


def random_box(height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Box:
    """A random crop box ``(top, left, height, width)`` inside a picture (Szegedy et al. 2015).

    Area uniform in ``scale``, aspect log-uniform in ``ratio``; when ten draws do not fit, the largest centred box whose
    aspect is nearest.
    """
    box = _draw_box(height, width, scale, ratio)
    if box is not None:
        return box
    shape = min(max(width / height, ratio[0]), ratio[1])
    tall = min(height, max(1, round(width / shape)))
    wide = min(width, max(1, round(height * shape)))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def draw_noise(height: int, width: int) -> Noise | None:
    """A box to erase from a picture (Zhong et al. 2020) and the seed of its noise; None where ten draws do not fit."""
    box = _draw_box(height, width, _ERASED_SHARE, _ERASED_RATIO)
    return None if box is None else Noise(*box, seed=int(torch.randint(2**63 - 1, ())))


def _draw_box(height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Box | None:
    low, high = math.log(ratio[0]), math.log(ratio[1])
    # All draws at once: ten calls would cost more than the crop of a small picture.
    for area, aspect, down, across in torch.rand(10, 4).tolist():
        pixels = height * width * (scale[0] + area * (scale[1] - scale[0]))
        shape = math.exp(low + aspect * (high - low))
        tall, wide = round(math.sqrt(pixels / shape)), round(math.sqrt(pixels * shape))
        if 0 < tall <= height and 0 < wide <= width:
            return int(down * (height - tall + 1)), int(across * (width - wide + 1)), tall, wide
    return None
