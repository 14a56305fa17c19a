"""Pictures of different sizes in one batch: zeros to the right and below, and a mask of where there is picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from vitrail.contracts import VitrailError
from vitrail.data.finish import Pixels, Sample, Stacked, collate, framed
from vitrail.data.preprocess import Preprocess


def pad_to_largest(
    images: Sequence[Float[Tensor, "c _h _w"]],
) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, "b h w"]]:
    """Normalised pictures in the upper left of frames that the tallest and the widest fit.

    Returns:
        The pictures, zeros around them, and a mask that is True where there is picture.

    Raises:
        VitrailError: no pictures.
    """
    if not images:
        raise VitrailError("pad_to_largest was given no pictures")
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    frames = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    mask = torch.zeros(len(images), height, width, dtype=torch.bool, device=images[0].device)
    for image, frame, present in zip(images, frames, mask, strict=True):
        frame[:, : image.shape[1], : image.shape[2]] = image
        present[: image.shape[1], : image.shape[2]] = True
    return frames, mask


def pad_collate(samples: list[dict[str, Sample]]) -> Stacked:
    """A batch of pictures of different sizes: padded ``"images"``, their ``"mask"``, and the extras stacked.

    Finished, the pictures are those of :func:`pad_to_largest`.
    """
    pictures = [sample["images"] for sample in samples]
    sizes = [(picture.values if isinstance(picture, Pixels) else picture).shape[-2:] for picture in pictures]
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    mask = torch.zeros(len(samples), height, width, dtype=torch.bool)
    padded: list[dict[str, Sample]] = []
    for sample, picture, present, (tall, wide) in zip(samples, pictures, mask, sizes, strict=True):
        present[:tall, :wide] = True
        frame = (0, width - wide, 0, height - tall)
        if isinstance(picture, Pixels):
            picture = replace(picture, values=F.pad(picture.values, frame), inside=(tall, wide))
        else:
            picture = F.pad(picture, frame)
        padded.append({**sample, "images": picture, "mask": present})
    return collate(padded)


class SizedTransform:
    """The model's input beside the picture's own size, to which boxes and masks are brought back.

    Args:
        preprocess: the model's.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, pixels: UInt8[Tensor, "c h w"]) -> Mapping[str, Sample]:
        """``"images"``, and ``"size"``: height and width of ``pixels``, int64."""
        preprocess = self.preprocess
        fitted = framed(preprocess, preprocess.fit(preprocess.pixels(pixels)))
        return {"images": fitted, "size": torch.tensor(pixels.shape[-2:])}
