"""Pictures into tokens: patch embedding and what to do with pictures that patches do not divide."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.nn.tokens import Grid, Tokens

Size = tuple[int, int]
Fit = Callable[[Tensor, Size], Tensor]
"""Brings a picture ``(B, C, H, W)`` to a size that patches of the given size divide."""


def as_pair(size: int | tuple[int, int]) -> Size:
    """``(height, width)`` from one number or two."""
    return (size, size) if isinstance(size, int) else size


def patch_grid(img_size: Size, patch_size: Size) -> Grid:
    """How many patches fit down and across: 224 with patch 16 is ``(14, 14)``; a remainder is cut off."""
    return (img_size[0] // patch_size[0], img_size[1] // patch_size[1])


def require_whole_patches(images: Float[Tensor, "b c h w"], patch: Size) -> Float[Tensor, "b c h w"]:
    """Pass pictures that patches divide, refuse the others.

    Raises:
        VitrailError: naming the size and the nearest sizes that work.
    """
    for axis, size, step in (("height", images.shape[-2], patch[0]), ("width", images.shape[-1], patch[1])):
        if size % step or size == 0:
            below, above = size // step * step, -(-size // step) * step
            near = f"{above}" if below == 0 else f"{below} or {above}"
            raise VitrailError(
                f"picture {axis} {size} is not a multiple of the patch size {step}: use {near}, "
                "or let the model pad or resize (fit='pad' or fit='resize')"
            )
    return images


def cut_to_patches(images: Float[Tensor, "b c h w"], patch: Size) -> Float[Tensor, "b c h2 w2"]:
    """Without the rows below and the columns to the right that fill no patch: what a plain convolution does.

    Raises:
        VitrailError: a picture smaller than one patch.
    """
    height, width = images.shape[-2:]
    if height < patch[0] or width < patch[1]:
        raise VitrailError(f"a picture of {height}x{width} is smaller than one patch of {patch[0]}x{patch[1]}")
    return images[..., : height // patch[0] * patch[0], : width // patch[1] * patch[1]]


def pad_to_patches(images: Float[Tensor, "b c h w"], patch: Size) -> Float[Tensor, "b c h2 w2"]:
    """Zeros below and to the right, up to the next whole patch."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % patch[1], 0, -height % patch[0]))


def resize_to_patches(images: Float[Tensor, "b c h w"], patch: Size) -> Float[Tensor, "b c h2 w2"]:
    """Bilinear resize to the nearest whole number of patches, at least one."""
    height, width = (max(1, round(s / p)) * p for s, p in zip(images.shape[-2:], patch, strict=True))
    if (height, width) == tuple(images.shape[-2:]):
        return images
    return F.interpolate(images, (height, width), mode="bilinear", align_corners=False, antialias=True)


FitName = Literal["error", "cut", "pad", "resize"]
FITS: dict[FitName, Fit] = {
    "error": require_whole_patches,
    "cut": cut_to_patches,
    "pad": pad_to_patches,
    "resize": resize_to_patches,
}


def require_fitting_size(img_size: int | Size, patch_size: int | Size, fit: FitName) -> None:
    """Refuse to build a model for pictures that it would refuse.

    Raises:
        VitrailError: naming a size that works.
    """
    size, patch = as_pair(img_size), as_pair(patch_size)
    if fit == "error" and any(s < p or s % p for s, p in zip(size, patch, strict=True)):
        raise VitrailError(
            f"img_size {size[0]}x{size[1]} is not a multiple of patch_size {patch[0]}x{patch[1]}: choose "
            f"another size (such as {-(-size[0] // patch[0]) * patch[0]}x{-(-size[1] // patch[1]) * patch[1]}), "
            "or fit='pad' or fit='resize'"
        )


def fitted_grid(img_size: int | Size, patch_size: int | Size, fit: FitName) -> Grid:
    """How many patches a picture of a size has, down and across, once it was made to fit."""
    size, patch = as_pair(img_size), as_pair(patch_size)
    if fit in ("error", "cut"):
        return patch_grid(size, patch)
    whole = {"pad": math.ceil, "resize": round}[fit]
    return tuple(max(1, whole(s / p)) for s, p in zip(size, patch, strict=True))


class PatchEmbed(nn.Module):
    """Non-overlapping patches, each projected linearly (Dosovitskiy et al. 2021, section 3.1).

    The projection is a convolution with kernel = stride = patch size.

    Args:
        patch_size: pixels, one number or ``(height, width)``.
        in_channels: bands of the picture, any number.
        embed_dim: width of a token.
        fit: what happens to pictures that patches do not divide: refused unless told otherwise.
        bias: whether the projection has one (CLIP's has none).
    """

    def __init__(
        self,
        patch_size: int | Size = 16,
        in_channels: int = 3,
        embed_dim: int = 768,
        fit: Fit = require_whole_patches,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.patch_size = as_pair(patch_size)
        self.in_channels = in_channels
        self.fit = fit
        self.proj = nn.Conv2d(in_channels, embed_dim, self.patch_size, stride=self.patch_size, bias=bias)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Tokens:
        """``(B, C, H, W)`` into tokens on a grid of ``(H / patch, W / patch)``."""
        if images.shape[1] != self.in_channels:
            raise VitrailError(
                f"pictures have {images.shape[1]} channels but the model takes {self.in_channels}: "
                "convert the pictures, or build the model with in_channels to match"
            )
        patches = self.proj(self.fit(images, self.patch_size))
        return Tokens(patches.flatten(2).transpose(1, 2), grid=tuple(patches.shape[-2:]))


class TubeletEmbed(nn.Module):
    """Non-overlapping boxes of a clip, each projected linearly (ViViT, Arnab et al. 2021, section 3.2).

    Args:
        tubelet: frames, height and width of a box.
        in_channels: bands of a frame.
        embed_dim: width of a token.
    """

    def __init__(self, tubelet: tuple[int, int, int] = (2, 16, 16), in_channels: int = 3, embed_dim: int = 768) -> None:
        super().__init__()
        self.tubelet = tubelet
        self.in_channels = in_channels
        self.proj = nn.Conv3d(in_channels, embed_dim, tubelet, stride=tubelet)

    def forward(self, clips: Float[Tensor, "b c *sides"]) -> Tokens:
        """``(B, C, T, H, W)`` into tokens on a grid of ``(T / frames, H / height, W / width)``.

        Raises:
            VitrailError: pictures instead of clips, another number of bands, or a side that boxes do not divide.
        """
        if clips.ndim != 5:
            raise VitrailError(f"clips are (B, C, T, H, W), not of shape {tuple(clips.shape)}: a picture is no clip")
        if clips.shape[1] != self.in_channels:
            raise VitrailError(f"clips have {clips.shape[1]} channels but the model takes {self.in_channels}")
        for axis, size, step in zip(("frames", "height", "width"), clips.shape[2:], self.tubelet, strict=True):
            if size % step or size == 0:
                raise VitrailError(
                    f"clip {axis} {size} is not a multiple of {step}: use {-(-size // step) * step or step}"
                )
        boxes = self.proj(clips)
        return Tokens(boxes.flatten(2).transpose(1, 2), grid=tuple(boxes.shape[-3:]))
