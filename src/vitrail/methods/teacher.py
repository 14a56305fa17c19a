"""A frozen model that a student learns from, and what it sees: the student's augmented pictures, in its own terms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data.preprocess import Preprocess
from vitrail.models.backbone import Backbone
from vitrail.nn.tokens import Tokens

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey (ITU-R 601)."""


class Teacher:
    """A frozen model that answers for pictures that were prepared for its student.

    No ``nn.Module``, on purpose: what a method holds of it is no part of checkpoints, averages, devices and exports.

    Args:
        model: put into evaluation mode and frozen, in place.
        own: the preprocessing that it was trained with.
        seen: the student's, whose pictures it is going to be given.
        order: for each of the student's classes, the number of the teacher's logit for it; None when they agree.

    Raises:
        VitrailError: a number of bands that cannot be brought to the teacher's.
    """

    def __init__(self, model: Backbone, own: Preprocess, seen: Preprocess, order: Sequence[int] | None = None) -> None:
        if own.bands != seen.bands and not {own.bands, seen.bands} <= {1, 3}:
            raise VitrailError(f"the teacher takes {own.bands} bands, the student's pictures have {seen.bands}")
        self.model = model.eval().requires_grad_(False)
        self.own, self.seen = own, seen
        self.order = None if order is None else torch.tensor(list(order))

    def prepare(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """The student's pictures as the teacher takes them: all of the view, at the teacher's size."""
        own, seen = self.own, self.seen
        if (own.mean, own.std) != (seen.mean, seen.std):
            images = images * _per_band(seen.std, images) + _per_band(seen.mean, images)
            if seen.bands > own.bands:
                images = (images * _per_band(LUMA, images)).sum(dim=1, keepdim=True)
            images = (images - _per_band(own.mean, images)) / _per_band(own.std, images)
        if tuple(images.shape[-2:]) == own.size:
            return images
        if own.interpolation == "nearest":
            return F.interpolate(images, own.size, mode="nearest-exact")
        return F.interpolate(images, own.size, mode=own.interpolation, antialias=own.antialias, align_corners=False)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Its answers, in the order of the student's classes."""
        logits = self._on(images.device)(self.prepare(images)).float()
        return logits if self.order is None else logits[:, self.order.to(logits.device)]

    @torch.no_grad()
    def features(self, images: Float[Tensor, "b c h w"]) -> Tokens:
        """Its tokens."""
        return self._on(images.device).features(self.prepare(images))

    def _on(self, device: torch.device) -> Backbone:
        if next(self.model.parameters()).device != device:
            self.model.to(device)
        return self.model


def _per_band(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]
