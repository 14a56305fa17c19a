"""Several views of one picture: multi-crop with the colour changes of BYOL.

Sources: multi-crop (SwAV, Caron et al. 2020, section 3.2), its numbers in DINO (Caron et al. 2021, section 3.2 and
appendix C), colours (BYOL, Grill et al. 2020, appendix B).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from vitrail.contracts import VitrailError
from vitrail.data.finish import Pixels, Sample
from vitrail.data.jpeg_part import cut
from vitrail.data.preprocess import Preprocess, resize
from vitrail.data.transforms import Augment, mirror, random_box, turn

SECOND_VIEW, LOCAL_VIEWS, MASKS = "second_view", "local_views", "masks"
"""The extras of a multi-crop sample: ``(C, H, W)``, ``(V, C, h, w)`` and ``(2, patches)``."""

_SHARPEST = 0.3
"""Blur of a smaller deviation, in pixels, moves no more than one level of 255 to a neighbour."""


@dataclass(frozen=True)
class MultiCrop:
    """The numbers of multi-crop; the defaults are those of DINO.

    Attributes:
        local_size: side of the local views in pixels; None for 3/7 of the global views' (96 of 224).
        local_crops: how many local views.
        global_scale: share of the picture's area that a global view takes.
        local_scale: the same of a local view.
        ratio: a view's width / height before it is resized, drawn log-uniformly.
        jitter: probability that a view's colours are jittered.
        brightness, contrast, saturation: largest change of each factor from 1.
        hue: largest turn of the hue, as a share of the circle, 0 … 0.5.
        grey: probability that a view becomes grey.
        blur: probabilities that the first global, the second global and each local view are blurred.
        blur_sigma: smallest and largest deviation, in pixels of a picture of 224; scaled with the global views' side.
        solarise: probability that the light half of the second global view is inverted.
    """

    local_size: int | None = None
    local_crops: int = 8
    global_scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.4)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grey: float = 0.2
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarise: float = 0.2

    def __post_init__(self) -> None:
        numbers = asdict(self)
        for name in ("global_scale", "local_scale"):
            low, high = numbers[name]
            if not 0.0 < low <= high <= 1.0:
                raise VitrailError(f"{name} must be 0 < low <= high <= 1, not {numbers[name]}")
        if not 0.0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise VitrailError(f"ratio must be 0 < low <= high, not {self.ratio}")
        if self.local_crops < 0 or (self.local_size is not None and self.local_size < 1):
            raise VitrailError(
                f"local_crops must be 0 or more and local_size at least 1, not {self.local_crops}, {self.local_size}"
            )
        chances = {name: numbers[name] for name in ("jitter", "grey", "solarise")}
        for name, value in {**chances, **{f"blur[{i}]": chance for i, chance in enumerate(self.blur)}}.items():
            if not 0.0 <= value <= 1.0:
                raise VitrailError(f"{name} is a probability, 0 … 1, not {value}")
        for name, most in (("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.5)):
            if not 0.0 <= numbers[name] <= most:
                raise VitrailError(f"{name} must lie in 0 … {most:g}, not {numbers[name]}")
        if len(self.blur) != 3 or not 0.0 <= self.blur_sigma[0] <= self.blur_sigma[1] < math.inf:
            raise VitrailError(
                f"blur has three probabilities and blur_sigma is 0 <= low <= high, not {self.blur}, {self.blur_sigma}"
            )

    def local_side(self, size: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the local views: whole patches, at least one.

        Args:
            size: of the global views.
            patch: of the model; both sides become multiples of it.
        """
        wanted = size if self.local_size is None else (self.local_size, self.local_size)
        share = 3 / 7 if self.local_size is None else 1.0
        tall, wide = (max(1, round(side * share / step)) * step for side, step in zip(wanted, patch, strict=True))
        return tall, wide


class MultiCropTransform:
    """Two global and several local views of a picture, each cropped, turned and coloured by itself.

    Gives a mapping: ``"images"``, the first global view ``(C, H, W)``, ``"second_view"``, ``"local_views"``
    ``(V, C, h, w)`` where there are any, and ``"masks"`` ``(2, patches)`` of the global views where they are asked
    for. The order of the colour changes is drawn once for all views of a size. Randomness: torch's global generator.

    Args:
        preprocess: the model's preprocessing; gives the global views' size, interpolation and normalisation.
        crops: what is random.
        augment: how each view is flipped and turned; nothing else of it counts.
        local_size: height and width of the local views, see :meth:`MultiCrop.local_side`.
        mask: draws the mask of one global view ``(patches,)``; None for none.

    Raises:
        VitrailError: colour changes for a number of bands other than 1 or 3.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        crops: MultiCrop,
        augment: Augment,
        local_size: tuple[int, int],
        mask: Callable[[], Bool[Tensor, " n"]] | None = None,
    ) -> None:
        if (crops.jitter or crops.grey) and preprocess.bands not in (1, 3):
            raise VitrailError(
                f"colour jitter works on 1 or 3 bands, the preprocessing has {preprocess.bands}: set jitter=0, grey=0"
            )
        self.preprocess = preprocess
        self.crops = crops
        self.augment = augment
        self.local_size = local_size
        self.mask = mask
        first, second, local = crops.blur
        self._whole_blur = torch.tensor([first, second])
        self._whole_solarise = torch.tensor([0.0, crops.solarise])
        self._local_blur = torch.full((crops.local_crops,), local)
        self._local_solarise = torch.zeros(crops.local_crops)

    def __call__(self, picture: Image.Image | UInt8[Tensor, "c0 h0 w0"]) -> dict[str, Sample]:
        """The views of ``picture`` (see :meth:`Preprocess.__call__` for what is accepted)."""
        crops = self.crops
        pixels = self.preprocess.pixels(picture)
        whole = self._views(pixels, crops.global_scale, self.preprocess.size, self._whole_blur, self._whole_solarise)
        sample: dict[str, Sample] = {
            name: self._pixels(w) for name, w in zip(("images", SECOND_VIEW), whole, strict=True)
        }
        if crops.local_crops:
            local = self._views(pixels, crops.local_scale, self.local_size, self._local_blur, self._local_solarise)
            sample[LOCAL_VIEWS] = self._pixels(local)
        if self.mask is not None:
            sample[MASKS] = torch.stack([self.mask(), self.mask()])
        return sample

    def _pixels(self, values: UInt8[Tensor, "*v c h w"]) -> Pixels:
        return Pixels(values, self.preprocess)

    def _views(
        self,
        pixels: UInt8[Tensor, "c h0 w0"],
        scale: tuple[float, float],
        size: tuple[int, int],
        blur: Float[Tensor, " v"],
        solarise: Float[Tensor, " v"],
    ) -> UInt8[Tensor, "v c h w"]:
        """As many views as there are probabilities of blur, of one size."""
        count = len(blur)
        views = torch.stack([self._crop(pixels, scale, size, *turns) for turns in torch.rand(count, 3).tolist()])
        views = self._colour(views.float().div_(255.0), torch.rand(count, 6))
        views = self._blur(views, torch.rand(count, 2), blur)
        chosen = torch.rand(count) < solarise
        if bool(chosen.any()):
            views = torch.where(chosen[:, None, None, None] & (views >= 0.5), 1.0 - views, views)
        return (views * 255.0).round_().to(torch.uint8)

    def _crop(
        self,
        pixels: UInt8[Tensor, "c h0 w0"],
        scale: tuple[float, float],
        size: tuple[int, int],
        turned: float,
        across: float,
        down: float,
    ) -> UInt8[Tensor, "c h w"]:
        augment = self.augment
        crop = cut(pixels, random_box(pixels.shape[1], pixels.shape[2], scale, self.crops.ratio))
        crop = turn(crop, int(4 * turned) if augment.quarter_turns else 0)
        view = resize(crop, size, self.preprocess.interpolation, self.preprocess.antialias)
        return mirror(view, across, down, augment)

    def _colour(self, views: Float[Tensor, "v c h w"], draws: Float[Tensor, "v 6"]) -> Float[Tensor, "v c h w"]:
        """Brightness, contrast, saturation and hue in random order, then grey; each view by its own factors."""
        crops, coloured = self.crops, views.shape[1] == 3
        jittered = (draws[:, 0] < crops.jitter).float()
        change = (2.0 * draws[:, 1:5] - 1.0) * jittered[:, None]
        factors = 1.0 + change[:, :3] * torch.tensor([crops.brightness, crops.contrast, crops.saturation])
        brightness, contrast, saturation = factors[:, :, None, None, None].unbind(dim=1)
        turns = (change[:, 3] * crops.hue).tolist()
        for step in torch.randperm(4).tolist() if crops.jitter else ():
            if step == 0 and crops.brightness:
                views = (views * brightness).clamp_(0.0, 1.0)
            elif step == 1 and crops.contrast:
                views = _blend(views, v2.rgb_to_grayscale(views).mean(dim=(1, 2, 3), keepdim=True), contrast)
            elif step == 2 and crops.saturation and coloured:
                views = _blend(views, v2.rgb_to_grayscale(views), saturation)
            elif step == 3 and crops.hue and coloured:
                views = torch.stack([v2.adjust_hue(view, shift) for view, shift in zip(views, turns, strict=True)])
        if crops.grey and coloured:
            grey = draws[:, 5] < crops.grey
            views = torch.where(grey[:, None, None, None], v2.rgb_to_grayscale(views), views)
        return views

    def _blur(
        self, views: Float[Tensor, "v c h w"], draws: Float[Tensor, "v 2"], chances: Float[Tensor, " v"]
    ) -> Float[Tensor, "v c h w"]:
        """Gaussian blur of the views that are drawn for it, each by a deviation of its own."""
        low, high = (sigma * min(self.preprocess.size) / 224 for sigma in self.crops.blur_sigma)
        blurred = list(views)
        for place in (draws[:, 0] < chances).nonzero().flatten().tolist():
            sigma = low + (high - low) * float(draws[place, 1])
            if sigma >= _SHARPEST:
                side = 2 * math.ceil(3 * sigma) + 1
                # Row by row, then column by column: the same as at once, and much less to compute.
                across = v2.gaussian_blur(blurred[place], [side, 1], [sigma, sigma])
                blurred[place] = v2.gaussian_blur(across, [1, side], [sigma, sigma])
        return torch.stack(blurred)


def _blend(views: Tensor, base: Tensor, factor: Tensor) -> Tensor:
    """``factor · views + (1 - factor) · base``, kept within 0 … 1."""
    return torch.lerp(base.expand_as(views), views, factor).clamp_(0.0, 1.0)
