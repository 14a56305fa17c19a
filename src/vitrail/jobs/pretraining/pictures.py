"""Fixed held-out pictures as the model sees them while it learns, saved in time order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from vitrail.contracts import Method, Progress
from vitrail.data import Preprocess, Source
from vitrail.data.reading import OnError
from vitrail.engine import World
from vitrail.explanations import attention_maps, overlay, patch_colours, picture_of
from vitrail.explanations.figures import save
from vitrail.explanations.record import attention_layers
from vitrail.explanations.strips import Strip, draw_strips
from vitrail.heads.pixels import patchify, unpatchify
from vitrail.jobs.inference import readable
from vitrail.methods.mae import MAE
from vitrail.models import Backbone, DiscreteVAE
from vitrail.nn.masking import mask_of, random_keep

GREY = 0.5
"""What stands where a patch is hidden, between black and white."""

Show = Callable[[Method, nn.Module, Float[Tensor, "b c h w"], Preprocess], list[Strip]]
"""Strips of normalised pictures, from the method, what it keeps, the pictures and the model's preprocessing."""


def show_features(
    method: Method, kept: nn.Module, images: Float[Tensor, "b c h w"], preprocess: Preprocess
) -> list[Strip]:
    """Where the last layer looks, and the patches' features as colours."""
    pictures = _pictures(images, preprocess)
    strips = [Strip("pictures", pictures)]
    if not isinstance(kept, Backbone):
        return strips
    if attention_layers(kept):
        maps = attention_maps(kept, images).float().cpu()
        painted = [Image.fromarray(overlay(picture, one)) for picture, one in zip(pictures, maps, strict=True)]
        strips.append(Strip("attention", painted))
    tokens = kept.features(images)
    if min(tokens.values.shape[-1], tokens.patches.shape[0] * tokens.patches.shape[1]) >= 3:
        colours = patch_colours(tokens.with_values(tokens.values.float())).numpy()
        patches = [Image.fromarray(np.round(one * 255).astype(np.uint8)) for one in colours]
        strips.append(Strip("features", patches))
    return strips


def show_reconstruction(
    method: Method, kept: nn.Module, images: Float[Tensor, "b c h w"], preprocess: Preprocess
) -> list[Strip]:
    """What the encoder sees, what the decoder makes of it, and the features of the whole pictures.

    Predictions of normalised pixels are shown in the mean and deviation of their patch (as in figure 2 of MAE).
    """
    strips = show_features(method, kept, images, preprocess)
    if not isinstance(method, MAE):
        return strips
    model = method.model
    grid = (images.shape[2] // model.patch[0], images.shape[3] // model.patch[1])
    # The same patches every time: one sees the model change, not the draw.
    keep = random_keep(len(images), grid, model.config.mask_ratio, torch.Generator().manual_seed(0)).to(images.device)
    patches = patchify(images, model.patch)
    predicted = model(images, keep).float()
    if method.normalise:
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        predicted = predicted * (variance + 1e-6).sqrt() + mean
    hidden = mask_of(keep, patches.shape[1]).unsqueeze(-1)
    grey = patchify(_grey(images, preprocess), model.patch)
    seen = unpatchify(torch.where(hidden, grey, patches), grid, model.patch)
    filled = unpatchify(torch.where(hidden, predicted, patches), grid, model.patch)
    shown = [Strip("seen", _pictures(seen, preprocess)), Strip("filled in", _pictures(filled, preprocess))]
    return [*shown, *strips]


def show_codes(
    method: Method, kept: nn.Module, images: Float[Tensor, "b c h w"], preprocess: Preprocess
) -> list[Strip]:
    """What a tokenizer keeps of pictures: each through its codes and back."""
    strips = [Strip("pictures", _pictures(images, preprocess))]
    if not isinstance(kept, DiscreteVAE):
        return strips
    stride = kept.config.stride
    told = kept.picture_of(kept.codes(images), (images.shape[2] // stride, images.shape[3] // stride)).float()
    bands = images.shape[1]
    return [*strips, Strip("from codes", [picture_of(one, (0.0,) * bands, (1.0,) * bands) for one in told])]


class Album:
    """What the engine calls after its measurements: a sheet of the same pictures, in ``FOLDER/epoch_0010.png``.

    Args:
        method: what is trained.
        source: held-out pictures.
        count: how many are shown; 0 for none.
        preprocess: of the model.
        show: what is drawn.
        folder: where the sheets go.
        world: the processes that train together; the first draws.
        on_error: whether a broken picture is an error, or is left out.
    """

    def __init__(
        self,
        method: Method,
        source: Source,
        count: int,
        preprocess: Preprocess,
        show: Show,
        folder: Path,
        world: World,
        on_error: OnError = "raise",
    ) -> None:
        self._method, self._preprocess, self._show, self._folder = method, preprocess, show, folder
        chosen = _chosen(source, count) if count and world.is_main else []
        pictures = list(readable(source, chosen, on_error))
        self._images = preprocess.batch(pictures) if pictures else None

    def __call__(self, kept: nn.Module, progress: Progress) -> None:
        """Draw the sheet of an epoch."""
        if self._images is None:
            return
        device = next(kept.parameters()).device
        self._method.eval()
        strips = self._show(self._method, kept, self._images.to(device), self._preprocess)
        save(draw_strips(strips), self._folder / f"epoch_{progress.epoch:05d}.png", dpi=120)


def sheets(folder: Path) -> list[Path]:
    """The sheets of a run in time order."""
    return sorted(folder.glob("epoch_*.png"))


def _chosen(source: Source, count: int) -> Sequence[int]:
    """Places of a few pictures, of as many classes as possible."""
    picked: list[int] = []
    for label in dict.fromkeys(source.labels.tolist()):
        picked.append(int(np.flatnonzero(source.labels == label)[0]))
    more = [index for index in range(min(len(source), 2 * count)) if index not in picked[:count]]
    return sorted([*picked, *more][:count])


def _pictures(images: Float[Tensor, "b c h w"], preprocess: Preprocess) -> list[Image.Image]:
    return [picture_of(image, preprocess.mean, preprocess.std) for image in images]


def _grey(images: Float[Tensor, "b c h w"], preprocess: Preprocess) -> Float[Tensor, "b c h w"]:
    """Pictures of nothing but grey, normalised."""
    mean, std = (
        torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (preprocess.mean, preprocess.std)
    )
    return ((GREY - mean) / std).expand_as(images)
