"""MAE: hide most patches of a picture, predict their pixels from the few that are seen.

Source: Masked Autoencoders Are Scalable Vision Learners (He et al. 2022).

| section of the paper | here |
|---|---|
| 3 "Masking": patches drawn without replacement, 75 % hidden | :class:`MaskedView` |
| 3 "MAE encoder": it computes the visible patches alone | ``self.model(images, keep, …)`` in :meth:`MAE.forward` |
| 3 "MAE decoder": mask tokens, positions, a light transformer | :class:`vitrail.heads.pixels.PixelDecoder` |
| 3 "Reconstruction target": squared error on the hidden patches, whose pixels are normalised | :meth:`MAE.forward` |
| A.1: random resized crops and mirror images, no colours | what :class:`MaskedView` is given as ``view`` |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.contracts import Batch, Method, Progress, Role, VitrailError
from vitrail.data.finish import Sample
from vitrail.data.undecoded import PartTransform, Undecoded
from vitrail.heads.pixels import normalise_patches, patchify
from vitrail.models.mae import MaskedAutoencoder
from vitrail.nn.masking import dropped_of, random_keep
from vitrail.nn.tokens import Grid, take_patches

KEEP = "keep"
"""The extra of a batch that names the visible patches, ``(B, K)``."""


@dataclass(frozen=True)
class MAEOptions:
    """The numbers of the paper.

    Attributes:
        mask_ratio: share of the patches that are hidden (figure 5).
        normalise: predict each patch's pixels by its own mean and deviation (section 4.1, table 1d).
        decoder_embed_dim: width of the decoder (table 1b).
        decoder_depth: blocks of the decoder (table 1a).
        decoder_num_heads: heads of the decoder.
    """

    mask_ratio: float = 0.75
    normalise: bool = True
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16

    def __post_init__(self) -> None:
        if not 0.0 < self.mask_ratio < 1.0:
            raise VitrailError(f"mask_ratio must lie between 0 and 1, not {self.mask_ratio}")


class MaskedView(PartTransform):
    """A picture's view, and the patches of it that the encoder may see.

    The draw belongs to the sample, as its crop does: it depends on seed, epoch and picture, and so it is the same
    however many processes share a batch.

    Args:
        view: from pixels to the model's input.
        grid: of the model's patches.
        mask_ratio: share of the patches that are hidden.
    """

    def __init__(self, view: Callable[[Undecoded], Sample], grid: Grid, mask_ratio: float) -> None:
        self.view = view
        self.grid = grid
        self.mask_ratio = mask_ratio

    def __call__(self, picture: Undecoded) -> dict[str, Sample]:
        """``"images"`` and :data:`KEEP`."""
        return {"images": self.view(picture), KEEP: random_keep(1, self.grid, self.mask_ratio)[0]}


class MAE(Method):
    """Trains an encoder by what it must know of a picture to fill in the rest of it.

    Args:
        model: encoder and decoder.
        normalise: whether every patch's pixels are predicted by their own mean and deviation.
    """

    def __init__(self, model: MaskedAutoencoder, normalise: bool = True) -> None:
        super().__init__()
        self.model = model
        self.normalise = normalise

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Mean squared error over the hidden patches' pixels; the visible ones are not even predicted."""
        if KEEP not in batch.extras:
            raise VitrailError("MAE needs to know which patches it may see: make batches with MaskedView")
        keep = batch.extras[KEEP]
        pixels = patchify(batch.images, self.model.patch)
        hidden = dropped_of(keep, pixels.shape[1])
        target = self.targets(take_patches(pixels, hidden))
        predicted = self.model(batch.images, keep, hidden)
        return {"loss": F.mse_loss(predicted.float(), target)}

    def targets(self, pixels: Float[Tensor, "b n p"]) -> Float[Tensor, "b n p"]:
        """What is to be predicted of patches."""
        return normalise_patches(pixels) if self.normalise else pixels

    def roles(self) -> dict[str, Role]:
        """The model's own."""
        return {f"model.{name}": role for name, role in self.model.roles().items()}

    def export(self) -> nn.Module:
        """The encoder; the decoder has done its part."""
        return self.model.encoder
