"""The one way from a picture to the model's input, stored with the model and used by everything that feeds it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vitrail.contracts import VitrailError
from vitrail.data.picture import to_pixels
from vitrail.data.placement import Placement

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF_MEAN = (0.5, 0.5, 0.5)
HALF_STD = (0.5, 0.5, 0.5)

Interpolation = Literal["bicubic", "bilinear", "nearest"]
Resize = Literal["shortest", "squash", "bounded", "longest"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
RESIZES: tuple[Resize, ...] = get_args(Resize)
_Choice = TypeVar("_Choice", bound=str)

# Numbers in a picture from which on it is worked on by itself.
_LARGE = 2**14

# Beyond this many times the target's side the long side of a resized picture is not computed (1 x 10,000 pixels).
_LONGEST = 16


def to_picture(pixels: UInt8[Tensor, "c h w"]) -> Image.Image:
    """The inverse of :func:`to_pixels`, exact; 1 or 3 channels."""
    return Image.fromarray(pixels[0].numpy() if pixels.shape[0] == 1 else pixels.permute(1, 2, 0).numpy())


def to_bands(pixels: UInt8[Tensor, "c0 h w"], bands: int) -> UInt8[Tensor, "c h w"]:
    """``pixels`` with ``bands`` channels: grey is repeated, RGB becomes luma exactly as Pillow's ``convert("L")``.

    Raises:
        VitrailError: any other change of the number of channels.
    """
    have = pixels.shape[0]
    if have == bands:
        return pixels
    if have == 1:
        return pixels.repeat(bands, 1, 1)
    if have == 3 and bands == 1:
        red, green, blue = pixels.int()
        return ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16).to(torch.uint8)[None]
    raise VitrailError(f"A picture of {have} channels was given to a preprocessing for {bands} (its mean's length)")


def resize(
    pixels: UInt8[Tensor, "c h0 w0"], size: tuple[int, int], interpolation: Interpolation, antialias: bool
) -> UInt8[Tensor, "c h w"]:
    """Resize to ``size`` (height, width) in 8 bits, half-pixel centres; the kernel behind every resize here."""
    if tuple(pixels.shape[1:]) == size:
        return pixels.contiguous()
    pixels = pixels[None]
    if interpolation == "nearest":
        return F.interpolate(pixels, size, mode="nearest-exact")[0]
    if size == (1, 1):
        # A single pixel is channels-last as well as not, over which torch's 8-bit kernel stumbles: band by band, then.
        bands = [F.interpolate(b, size, mode=interpolation, antialias=antialias) for b in pixels.split(1, dim=1)]
        return torch.cat(bands, dim=1)[0]
    return F.interpolate(pixels, size, mode=interpolation, antialias=antialias, align_corners=False)[0].contiguous()


@dataclass(frozen=True)
class Preprocess:
    """Resize, centre-crop, scale to 0 … 1 and normalise.

    ``resize="shortest"`` keeps the aspect ratio: the picture is scaled until it just covers a box of
    ``floor(size / crop)``, then ``size`` is cut from its centre. For a square size that is the usual "short side to
    size / crop, centre crop"; for another size the side that binds decides, so the crop is always full. Of a picture
    so long that it would become more than 16 times longer than the crop, only the middle is resized.
    ``resize="squash"`` scales both sides to ``floor(size / crop)`` whatever the aspect ratio, then cuts the centre.
    ``resize="bounded"`` keeps the aspect ratio and all of the picture: its short side becomes ``size[0]``, unless its
    long side would then exceed ``size[1]``: that becomes ``size[1]`` instead. Outputs differ in size; no crop.
    ``resize="longest"`` keeps the aspect ratio and all of the picture: it is scaled until it just fits into ``size``,
    and what is left at the right and below is filled with the mean colour (zeros once normalised); no crop.

    The arithmetic is on 8-bit pixels on the CPU, whatever was passed in, so a picture gives the same bits alone, in a
    batch, as a Pillow picture or as a tensor.

    Attributes:
        size: ``(height, width)`` of the output in pixels; under ``"bounded"``, its short side and the most of its long.
        crop: share of the resized side that is kept, in (0, 1].
        resize: ``"shortest"``, ``"squash"``, ``"bounded"`` or ``"longest"``.
        interpolation: ``"bicubic"``, ``"bilinear"`` or ``"nearest"``.
        antialias: whether the kernel widens when the picture shrinks (as Pillow does); no effect on nearest.
        mean: of each band on the scale 0 … 1; its length is the number of bands.
        std: of each band.
    """

    size: tuple[int, int] = (224, 224)
    crop: float = 0.875
    resize: Resize = "shortest"
    interpolation: Interpolation = "bicubic"
    antialias: bool = True
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if len(self.size) != 2 or not all(isinstance(side, int) and side > 0 for side in self.size):
            raise VitrailError(f"Preprocess: size must be two positive whole numbers (H, W), not {self.size!r}")
        if not 0.0 < self.crop <= 1.0:
            raise VitrailError(f"Preprocess: crop must lie in (0, 1], not {self.crop!r}")
        _choice("resize", self.resize, RESIZES)
        if self.resize == "bounded" and (self.crop != 1.0 or self.size[0] > self.size[1]):
            raise VitrailError(
                f"Preprocess: resize='bounded' keeps all of the picture (crop 1, not {self.crop}), and its size is a "
                f"short side and the most of the long one, not {self.size}"
            )
        if self.resize == "longest" and self.crop != 1.0:
            raise VitrailError(f"Preprocess: resize='longest' keeps the whole picture: crop must be 1, not {self.crop}")
        _choice("interpolation", self.interpolation, INTERPOLATIONS)
        if not self.mean or len(self.mean) != len(self.std):
            raise VitrailError(f"Preprocess: mean has {len(self.mean)} bands and std {len(self.std)}; they must agree")
        if not all(map(math.isfinite, self.mean)) or not all(math.isfinite(s) and s > 0 for s in self.std):
            raise VitrailError(f"Preprocess: mean {self.mean} must be finite and std {self.std} finite and positive")

    @property
    def bands(self) -> int:
        """Number of channels that the model sees."""
        return len(self.mean)

    @property
    def channels(self) -> Literal[1, 3]:
        """Number of channels that a picture is to be decoded with: 1 (grey) for one band, 3 (RGB) otherwise."""
        return 1 if self.bands == 1 else 3

    def __call__(self, picture: Image.Image | UInt8[Tensor, "c0 h0 w0"]) -> Float[Tensor, "c h w"]:
        """The model's input for one picture.

        Args:
            picture: a Pillow picture of any mode, or its pixels as ``(C, H, W)`` uint8. Grey is repeated to all
                bands, RGB becomes grey for one band.

        Raises:
            VitrailError: a number of channels that cannot be brought to :attr:`bands`, or no pixels.
        """
        return self.normalize(self.fit(self.pixels(picture)))

    def batch(self, pictures: Sequence[Image.Image | Tensor] | UInt8[Tensor, "b c0 h0 w0"]) -> Float[Tensor, "b c h w"]:
        """The inputs of several pictures, of any sizes, stacked; bit-equal to one call each.

        Raises:
            VitrailError: no pictures, or inputs of different sizes (``resize="bounded"``; see ``pad_to_largest``).
        """
        if len(pictures) == 0:
            raise VitrailError("Preprocess.batch was given no pictures")
        inputs = [self(picture) for picture in pictures]
        if any(one.shape != inputs[0].shape for one in inputs):
            raise VitrailError("Preprocess.batch: inputs of different sizes do not stack: use pad_to_largest")
        return torch.stack(inputs)

    def pixels(self, picture: Image.Image | UInt8[Tensor, "c0 h w"]) -> UInt8[Tensor, "c h w"]:
        """The first step: the picture's own pixels with :attr:`bands` channels, on the CPU, channels last in memory.

        The layout is that of decoders, and the one whose resizing is quickest.
        """
        pixels = picture.cpu() if isinstance(picture, Tensor) else to_pixels(picture)
        if pixels.dtype != torch.uint8 or pixels.ndim != 3 or 0 in pixels.shape:
            shape = tuple(pixels.shape)
            raise VitrailError(f"A picture must be (C, H, W) uint8 and not empty, got {shape} of {pixels.dtype}")
        # Always the same layout, for another would choose another kernel, whose rounding may differ.
        return to_bands(pixels, self.bands).permute(1, 2, 0).contiguous().permute(2, 0, 1)

    def fit(self, pixels: UInt8[Tensor, "c h0 w0"]) -> UInt8[Tensor, "c h w"]:
        """The second step: resize and centre-crop; under ``"longest"`` only the last step fills up the size."""
        place = self.placement(pixels.shape[1], pixels.shape[2])
        (top, left), (height, width) = place.cut, place.kept
        kept = pixels[:, top : top + height, left : left + width]
        resized = resize(kept, place.resized, self.interpolation, self.antialias)
        top, left = (-start for start in place.offset)
        return resized[:, top : top + place.size[0], left : left + place.size[1]]

    def placement(self, height: int, width: int) -> Placement:
        """Where a picture of that size comes to lie in the model's input."""
        picture = kept = (height, width)
        if self.resize in ("bounded", "longest"):
            bounded = self.resize == "bounded"
            box = (_bounded if bounded else _fit_into)(height, width, self.size)
            return Placement(picture, (0, 0), picture, box, (0, 0), box if bounded else self.size)
        box = (int(self.size[0] / self.crop), int(self.size[1] / self.crop))
        if self.resize == "shortest":
            kept = _middle(height, width, box)
            box = _cover(*kept, box)
        offset = _centred(box, self.size)
        return Placement(picture, _centred(picture, kept), kept, box, (-offset[0], -offset[1]), self.size)

    def normalize(self, pixels: UInt8[Tensor, "*b c h0 w0"]) -> Float[Tensor, "*b c h w"]:
        """The last step: ``(pixels / 255 - mean) / std``, and under ``"longest"`` zeros up to the size."""
        values = normalize(pixels, self.mean, self.std)
        below, behind = (self.size[0] - pixels.shape[-2], self.size[1] - pixels.shape[-1])
        return F.pad(values, (0, behind, 0, below)) if self.resize == "longest" else values

    def with_size(self, size: tuple[int, int]) -> Preprocess:
        """The same for another output size."""
        return replace(self, size=size)

    def whole(self, picture: Image.Image, patch: tuple[int, int]) -> Preprocess:
        """The preprocessing that keeps all of one picture at its own aspect.

        Args:
            picture: of which only the size is looked at.
            patch: height and width in pixels.

        Returns:
            One whose size has the short side that this one has, both sides rounded to the nearest whole patches.
        """
        scale = min(self.size) / min(picture.size)
        height, width = (
            max(1, round(side * scale / step)) * step
            for side, step in zip((picture.height, picture.width), patch, strict=True)
        )
        return replace(self, size=(height, width), resize="squash", crop=1.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The inverse of :meth:`to_dict`.

        Raises:
            VitrailError: a key too many or too few, or a value of another type.
        """
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in values]
        unknown = [str(key) for key in values if key not in names]
        if missing or unknown:
            parts = ([f"lacks {', '.join(missing)}"] if missing else []) + (
                [f"has unknown {', '.join(unknown)}"] if unknown else []
            )
            raise VitrailError(f"Preprocess: the stored preprocessing {' and '.join(parts)}")
        return cls(
            size=_whole(values["size"]),
            crop=_number("crop", values["crop"]),
            resize=_choice("resize", values["resize"], RESIZES),
            interpolation=_choice("interpolation", values["interpolation"], INTERPOLATIONS),
            antialias=_truth("antialias", values["antialias"]),
            mean=_numbers("mean", values["mean"]),
            std=_numbers("std", values["std"]),
        )


def normalize(
    pixels: UInt8[Tensor, "*shape"], mean: tuple[float, ...], std: tuple[float, ...], axis: int = -3
) -> Float[Tensor, "*shape"]:
    """``(pixels / 255 - mean) / std`` with the bands at ``axis``, counted from the end: the same bits on any device."""

    def per_band(values: tuple[float, ...]) -> Tensor:
        return _constant(values, pixels.device).view(-1, *(1,) * (-axis - 1))

    # A tensor of the device and not a number, which a GPU would multiply by its rounded inverse.
    full = _constant((255.0,), pixels.device)
    values = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device)
    # On a CPU large ones one after the other: its cache holds one of them between the steps, and not a batch.
    apart = pixels.device.type == "cpu" and pixels.ndim > -axis and pixels[0].numel() > _LARGE
    for source, target in zip(pixels, values, strict=True) if apart else [(pixels, values)]:
        target.copy_(source).div_(full).sub_(per_band(mean)).div_(per_band(std))
    return values


# Remade for every small picture, these tensors would cost as much as the arithmetic.
@lru_cache(maxsize=32)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


def _cover(height: int, width: int, box: tuple[int, int]) -> tuple[int, int]:
    if box[0] * width >= box[1] * height:
        return box[0], box[0] * width // height
    return box[1] * height // width, box[1]


def _bounded(height: int, width: int, limits: tuple[int, int]) -> tuple[int, int]:
    short, long = min(height, width), max(height, width)
    sides = (limits[0], limits[0] * long // short)
    if long * limits[0] > limits[1] * short:
        sides = (max(1, round(limits[1] * short / long)), limits[1])
    return sides if height <= width else (sides[1], sides[0])


def _fit_into(height: int, width: int, box: tuple[int, int]) -> tuple[int, int]:
    scale = min(box[0] / height, box[1] / width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _middle(height: int, width: int, box: tuple[int, int]) -> tuple[int, int]:
    """What is resized of a picture that may be very long."""
    tall, wide = _cover(height, width, box)
    rows = min(height, max(1, -(-height * _LONGEST * box[0] // tall)))
    columns = min(width, max(1, -(-width * _LONGEST * box[1] // wide)))
    return rows, columns


def _centred(whole: tuple[int, int], part: tuple[int, int]) -> tuple[int, int]:
    """Top and left of a part in the middle."""
    return round((whole[0] - part[0]) / 2), round((whole[1] - part[1]) / 2)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise VitrailError(f"Preprocess: {name} must be a number, not {value!r}")
    return float(value)


def _numbers(name: str, value: object) -> tuple[float, ...]:
    if not isinstance(value, list | tuple):
        raise VitrailError(f"Preprocess: {name} must be a list of numbers, not {value!r}")
    return tuple(_number(name, item) for item in value)


def _whole(value: object) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(type(side) is int for side in value):
        raise VitrailError(f"Preprocess: size must be two whole numbers [H, W], not {value!r}")
    return value[0], value[1]


def _choice(name: str, value: object, known: tuple[_Choice, ...]) -> _Choice:
    for choice in known:
        if choice == value:
            return choice
    raise VitrailError(f"Preprocess: {name} must be one of {', '.join(known)}, not {value!r}")


def _truth(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise VitrailError(f"Preprocess: {name} must be true or false, not {value!r}")
    return value
