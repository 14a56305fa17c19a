"""Maps painted over pictures, as pixels. Figures, report and page all show what is made here."""

from __future__ import annotations

import matplotlib
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.colors import Colormap
from PIL import Image
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.explanations.maps import Upsample, upsample_nearest

ATTENTION_COLOURS: Colormap = matplotlib.colormaps["inferno"]
"""Perceptually uniform, and dark where there is nothing to see."""

SIGNED_COLOURS: Colormap = matplotlib.colormaps["RdBu_r"]
"""For values that run from -1 to 1: white where there is nothing either way."""

QUANTILE, MOST_CLIPPED = 0.99, 4.0
DIMMED = 0.8
LEAST_COVER, MOST_COVER = 0.35, 0.85


def top_of(values: Float[Tensor, "*shape"]) -> float:
    """The value that gets the brightest colour: the 99 % quantile, but not less than a quarter of the largest value.

    Some models pile attention on a few patches that mean nothing (Darcet et al. 2024); with the maximum as the top all
    others would look alike. NaN is ignored; a map of zeros has the top 1.
    """
    finite = values[values.isfinite()].detach().float().cpu()
    if not len(finite):
        return 1.0
    top = max(float(np.quantile(finite.numpy(), QUANTILE)), float(finite.max()) / MOST_CLIPPED)
    return top if top > 0 else 1.0


def _one_map(values: Tensor) -> Tensor:
    if values.ndim != 2:
        raise VitrailError(f"one map (H, W) is drawn at a time, not {tuple(values.shape)}: choose a picture and a head")
    return values.detach().float().cpu()


def colour_map(values: Float[Tensor, "h w"], top: float | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """A map in its colours, one pixel per patch, from 0 to ``top`` (:func:`top_of` when None)."""
    share = (_one_map(values) / (top or top_of(values))).clamp(0, 1).nan_to_num(0.0)
    return np.round(ATTENTION_COLOURS(share.numpy())[..., :3] * 255).astype(np.uint8)


def signed_colour_map(values: Float[Tensor, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """A map of values from -1 to 1, such as cosines, in colours, one pixel per patch."""
    share = ((_one_map(values) + 1) / 2).clamp(0, 1).nan_to_num(0.5)
    return np.round(SIGNED_COLOURS(share.numpy())[..., :3] * 255).astype(np.uint8)


def overlay(
    picture: Image.Image,
    values: Float[Tensor, "h w"],
    top: float | None = None,
    upsample: Upsample = upsample_nearest,
) -> UInt8[np.ndarray, "height width 3"]:
    """A map over the greyed picture: the more attention, the more colour and the less picture.

    Args:
        picture: as the model saw it (resized and cropped), at any resolution: the map covers all of it.
        values: the map, at least 0; NaN (absent patches) stays uncoloured.
        top: value of the brightest colour; :func:`top_of` when None.
        upsample: brings the map to the picture's size.

    Raises:
        VitrailError: for more than one map.
    """
    values = _one_map(values)
    top = top or top_of(values)
    size = (picture.height, picture.width)
    share = upsample(values[None], size)[0].div(top).clamp(0, 1)
    cover = (LEAST_COVER + (MOST_COVER - LEAST_COVER) * share).nan_to_num(0.0).numpy()[..., None]
    colour = ATTENTION_COLOURS(share.nan_to_num(0.0).numpy())[..., :3]
    grey = np.asarray(picture.convert("L"), dtype=np.float64)[..., None] / 255 * DIMMED
    return np.round(((1 - cover) * grey + cover * colour) * 255).astype(np.uint8)


def picture_of(
    image: Float[Tensor, "c h w"], mean: tuple[float, ...] = (0.0,), std: tuple[float, ...] = (1.0,)
) -> Image.Image:
    """A normalised tensor as the picture that the model saw.

    Args:
        image: ``(C, H, W)``, normalised as ``(x - mean) / std`` with ``x`` in 0 … 1. One band is shown in grey; of more
            than three bands the first three are shown.
        mean: what was subtracted, one number per band, or one for all.
        std: what it was divided by, likewise.
    """
    values = image.detach().float().cpu()
    values = values * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    values = values[:1].expand(3, -1, -1) if len(values) < 3 else values[:3]
    pixels = values.clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
