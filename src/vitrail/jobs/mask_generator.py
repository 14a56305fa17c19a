"""Masks of everything in a picture: a grid of clicks, of whose answers the good and different ones are kept.

Source: SAM (Kirillov et al. 2023, section 4, "Fully automatic stage", and appendix B).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import ceil

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torchvision.ops import box_area, masks_to_boxes, nms

from vitrail.contracts import VitrailError
from vitrail.jobs.segmenter import Answer, Segmenter

See = Callable[[Image.Image], Segmenter]
Box = tuple[int, int, int, int]
"""``(x0, y0, x1, y1)`` in pixels."""

NEAR_EDGE = 20.0
"""Pixels within which a mask counts as cut off by the edge of its crop."""
CROP_SHARE = 512 / 1500
"""Overlap of neighbouring crops in the first layer, as a share of the picture's short side."""


@dataclass(frozen=True)
class GeneratorSettings:
    """What is asked and what is kept. The defaults are the authors', chosen for their largest model.

    Attributes:
        points_per_side: clicks along each side of the picture.
        batch: clicks at once.
        quality: least predicted IoU.
        stability: least IoU of the masks at a threshold of ``stability_offset`` above and below zero.
        stability_offset: in logits.
        overlap: of two masks whose boxes have a larger IoU the one of lower quality goes.
        crop_layers: further passes over ``4, 16 …`` overlapping parts of the picture, for small things.
        crop_overlap: as ``overlap``, between passes; masks of smaller crops stay.
        min_region: pixels below which islands and holes of a mask are removed; 0 leaves masks as they are.
    """

    points_per_side: int = 32
    batch: int = 64
    quality: float = 0.88
    stability: float = 0.95
    stability_offset: float = 1.0
    overlap: float = 0.7
    crop_layers: int = 0
    crop_overlap: float = 0.7
    min_region: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (
            ("points_per_side", self.points_per_side, 1),
            ("batch", self.batch, 1),
            ("crop_layers", self.crop_layers, 0),
            ("min_region", self.min_region, 0),
        ):
            if value < least:
                raise VitrailError(f"{name} must be at least {least}, not {value}")


@dataclass(frozen=True)
class Found:
    """Masks of one picture, best first within each crop.

    Attributes:
        size: height and width of the picture.
        packed: each mask's pixels row by row, eight to a byte.
        boxes: ``(x0, y0, x1, y1)``, first and last column and row that belong to the mask.
        quality: predicted IoU.
        stability: measured.
        points: the clicks that gave them, ``(x, y)``.
        crops: the part of the picture that was looked at.
    """

    size: tuple[int, int]
    packed: list[UInt8[np.ndarray, " bytes"]] = field(default_factory=list)
    boxes: Float[Tensor, "n 4"] = field(default_factory=lambda: torch.zeros(0, 4))
    quality: Float[Tensor, " n"] = field(default_factory=lambda: torch.zeros(0))
    stability: Float[Tensor, " n"] = field(default_factory=lambda: torch.zeros(0))
    points: Float[Tensor, "n 2"] = field(default_factory=lambda: torch.zeros(0, 2))
    crops: Int[Tensor, "n 4"] = field(default_factory=lambda: torch.zeros(0, 4, dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.packed)

    def mask(self, number: int) -> Bool[np.ndarray, "h w"]:
        """One mask on the picture's pixels."""
        count = self.size[0] * self.size[1]
        return np.unpackbits(self.packed[number], count=count).reshape(self.size).astype(bool)

    def take(self, keep: Int[Tensor, " k"]) -> Found:
        """Those masks, in that order."""
        return Found(
            self.size,
            [self.packed[number] for number in keep.tolist()],
            *(values[keep] for values in (self.boxes, self.quality, self.stability, self.points, self.crops)),
        )

    @classmethod
    def join(cls, parts: Sequence[Found]) -> Found:
        """All masks of several answers on one picture."""
        return cls(
            parts[0].size,
            [packed for part in parts for packed in part.packed],
            torch.cat([part.boxes for part in parts]),
            torch.cat([part.quality for part in parts]),
            torch.cat([part.stability for part in parts]),
            torch.cat([part.points for part in parts]),
            torch.cat([part.crops for part in parts]),
        )


def generate_masks(see: See, picture: Image.Image, settings: GeneratorSettings) -> Found:
    """Masks of everything in a picture.

    Args:
        see: encodes a picture.
        picture: RGB or grey.
        settings: what is asked and kept.
    """
    size = (picture.height, picture.width)
    parts = []
    for crop in crop_boxes(size, settings.crop_layers):
        found = _in_crop(see, picture, crop, settings)
        parts.append(found.take(nms(found.boxes, found.quality, settings.overlap)))
    found = Found.join(parts)
    if len(parts) > 1:
        found = found.take(nms(found.boxes, 1 / box_area(found.crops.float()), settings.crop_overlap))
    if settings.min_region and len(found):
        found = tidy(found, settings)
    return found


def _in_crop(see: See, picture: Image.Image, crop: Box, settings: GeneratorSettings) -> Found:
    segmenter = see(picture.crop(crop))
    height, width = segmenter.size
    grid = point_grid(settings.points_per_side) * torch.tensor([width, height])
    size = (picture.height, picture.width)
    parts = []
    for clicks in grid.split(settings.batch):
        answer = segmenter.answer(clicks[:, None].float(), torch.ones(len(clicks), 1, dtype=torch.int64))
        parts.append(_keep_good(answer, clicks, crop, size, settings))
    return Found.join(parts)


def _keep_good(
    answer: Answer, clicks: Float[Tensor, "p 2"], crop: Box, size: tuple[int, int], settings: GeneratorSettings
) -> Found:
    """The masks of good quality, stable, not empty, and not cut off by the edge of a crop."""
    quality = answer.quality.flatten()
    good = quality > settings.quality
    logits = answer.on_picture(good)
    steady = stability(logits, settings.stability_offset)
    masks = logits > 0
    stays = (steady >= settings.stability) & masks.flatten(1).any(dim=1)
    masks = masks[stays]
    shift = torch.tensor([crop[0], crop[1]])
    boxes = (masks_to_boxes(masks) if len(masks) else masks.new_zeros(0, 4).float()).cpu() + shift.repeat(2)
    whole = ~cut_off(boxes, crop, (0, 0, size[1], size[0]))
    points = clicks.repeat_interleave(answer.masks.shape[1], dim=0)[good.cpu()][stays.cpu()] + shift
    return Found(
        size,
        [_packed(mask, crop, size) for mask in masks[whole.to(masks.device)].cpu().numpy()],
        boxes[whole],
        quality[good][stays].cpu()[whole],
        steady[stays].cpu()[whole],
        points[whole].float(),
        torch.tensor([crop]).expand(int(whole.sum()), 4),
    )


def _packed(mask: Bool[np.ndarray, "h w"], crop: Box, size: tuple[int, int]) -> UInt8[np.ndarray, " bytes"]:
    whole = np.zeros(size, dtype=bool)
    whole[crop[1] : crop[3], crop[0] : crop[2]] = mask
    return np.packbits(whole)


def point_grid(points_per_side: int) -> Float[Tensor, "n 2"]:
    """Clicks in the middles of equal cells, ``(x, y)`` from 0 to 1, row by row."""
    places = (torch.arange(points_per_side, dtype=torch.float64) + 0.5) / points_per_side
    return torch.stack(torch.meshgrid(places, places, indexing="xy"), dim=-1).flatten(0, 1)


def crop_boxes(size: tuple[int, int], layers: int) -> list[Box]:
    """The whole picture, then for every layer its overlapping parts, ``2 ** layer`` to a side; column by column."""
    height, width = size
    boxes: list[Box] = [(0, 0, width, height)]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(CROP_SHARE * min(size) * (2 / count))
        tall, wide = (ceil((overlap * (count - 1) + side) / count) for side in size)
        for i, j in product(range(count), range(count)):
            left, top = i * (wide - overlap), j * (tall - overlap)
            boxes.append((left, top, min(left + wide, width), min(top + tall, height)))
    return boxes


def stability(logits: Float[Tensor, "n h w"], offset: float) -> Float[Tensor, " n"]:
    """IoU of the mask at a higher and at a lower threshold, of which one lies inside the other; 0 for empty ones."""
    inner, outer = ((logits > limit).flatten(1).sum(dim=1) for limit in (offset, -offset))
    return inner / outer.clamp(min=1)


def cut_off(boxes: Float[Tensor, "n 4"], crop: Box, picture: Box) -> Bool[Tensor, " n"]:
    """Whether a mask ends where its crop ends, but not where the picture ends."""
    near_crop = (boxes - torch.tensor(crop)).abs() <= NEAR_EDGE
    near_picture = (boxes - torch.tensor(picture)).abs() <= NEAR_EDGE
    return (near_crop & ~near_picture).any(dim=1)


def tidy(found: Found, settings: GeneratorSettings) -> Found:
    """Masks without small holes and islands; of those that thereby became alike, untouched ones stay."""
    masks, untouched = [], []
    for number in range(len(found)):
        mask = found.mask(number)
        clean = without_small_regions(mask, settings.min_region)
        masks.append(clean)
        untouched.append(float(np.array_equal(clean, mask)))
    boxes = torch.cat([masks_to_boxes(torch.from_numpy(mask)[None]) for mask in masks])
    cleaned = Found(
        found.size,
        [np.packbits(mask) for mask in masks],
        boxes,
        found.quality,
        found.stability,
        found.points,
        found.crops,
    )
    return cleaned.take(nms(boxes, torch.tensor(untouched), max(settings.overlap, settings.crop_overlap)))


def without_small_regions(mask: Bool[np.ndarray, "h w"], area: int) -> Bool[np.ndarray, "h w"]:
    """Holes of fewer than ``area`` pixels filled, islands of fewer removed; the largest island always stays."""
    holes, sizes = _regions(~mask)
    small = np.flatnonzero(sizes < area)
    islands, sizes = _regions(mask | np.isin(holes, small[small > 0]))
    large = np.flatnonzero(sizes >= area)
    large = large[large > 0]
    # A mask that is nothing but small islands keeps its largest.
    return np.isin(islands, large if len(large) else [1 + int(np.argmax(sizes[1:]))])


def _regions(mask: Bool[np.ndarray, "h w"]) -> tuple[np.ndarray, np.ndarray]:
    """A number for every connected region (corners connect), and how many pixels each has; 0 is what lies outside."""
    numbers, _ = ndimage.label(mask, structure=np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    return numbers, np.bincount(numbers.ravel())
