"""SimMIM: predict the raw pixels of hidden patches with one linear layer.

Source: SimMIM: A Simple Framework for Masked Image Modeling (Xie et al. 2022).

| section of the paper | here |
|---|---|
| 3.2 masking strategy: squares of 32 pixels, 60 % hidden | :class:`SquaresView` |
| 3.2: the encoder sees every place, a mask token where a patch is hidden | :meth:`SimMIM.forward` |
| 3.3 prediction head: one linear layer | ``self.head`` |
| 3.4 prediction target: L1 on the hidden pixels | :meth:`SimMIM.forward` |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from vitrail.contracts import Batch, Method, Progress, Role, VitrailError
from vitrail.data.finish import Sample
from vitrail.data.undecoded import PartTransform, Undecoded
from vitrail.heads.pixels import patchify, pixels_of
from vitrail.models.plain import require_every_patch
from vitrail.models.vit import VisionTransformer
from vitrail.nn.tokens import Grid

MASK = "mask"
"""The extra of a batch that is True at hidden patches, ``(B, N)``."""


@dataclass(frozen=True)
class SimMIMOptions:
    """The numbers of the paper.

    Attributes:
        mask_ratio: share of the squares that are hidden (table 1).
        square: pixels along the side of a hidden square (table 1); a multiple of the patch size.
    """

    mask_ratio: float = 0.6
    square: int = 32

    def __post_init__(self) -> None:
        if not 0.0 < self.mask_ratio < 1.0:
            raise VitrailError(f"mask_ratio must lie between 0 and 1, not {self.mask_ratio}")
        if self.square < 1:
            raise VitrailError(f"square must be at least 1 pixel, not {self.square}")


def draw_squares(grid: Grid, step: tuple[int, int], ratio: float) -> Bool[Tensor, " n"]:
    """Patches hidden in whole squares, drawn from torch's global generator.

    Args:
        grid: rows and columns of patches.
        step: patches along the height and the width of a square; those at the rim may be cut.
        ratio: share of the squares that are hidden, rounded up, as in the authors' code; at least one.
    """
    rows, columns = -(-grid[0] // step[0]), -(-grid[1] // step[1])
    count = rows * columns
    hidden = torch.zeros(count, dtype=torch.bool)
    # Without the last digits: 0.55 of 100 squares is 55.00000000000001 in floats, and is not 56.
    wanted = math.ceil(round(count * ratio, 6))
    hidden[torch.randperm(count)[: max(1, wanted)]] = True
    whole = hidden.view(rows, columns).repeat_interleave(step[0], 0).repeat_interleave(step[1], 1)
    return whole[: grid[0], : grid[1]].flatten()


class SquaresView(PartTransform):
    """A picture's view and the patches of it that are hidden; drawn with the sample, as its crop is.

    Args:
        view: from pixels to the model's input.
        grid: of the model's patches.
        patch: pixels along each side of a patch.
        options: square and share.

    Raises:
        VitrailError: squares that patches do not fill.
    """

    def __init__(
        self, view: Callable[[Undecoded], Sample], grid: Grid, patch: tuple[int, int], options: SimMIMOptions
    ) -> None:
        if options.square % patch[0] or options.square % patch[1]:
            raise VitrailError(f"square={options.square} is not a multiple of the patch size {patch[0]}×{patch[1]}")
        self.view = view
        self.grid = grid
        self.step = (options.square // patch[0], options.square // patch[1])
        self.ratio = options.mask_ratio

    def __call__(self, picture: Undecoded) -> dict[str, Sample]:
        """``"images"`` and :data:`MASK`."""
        return {"images": self.view(picture), MASK: draw_squares(self.grid, self.step, self.ratio)}


class SimMIM(Method):
    """Trains an encoder by the pixels of the patches that it could not see.

    Args:
        model: a ViT with a mask token that leaves out no patches.

    Raises:
        VitrailError: another one.
    """

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        if model.mask_token is None:
            raise VitrailError("SimMIM puts a mask token where a patch is hidden: build the model with mask_token=True")
        require_every_patch(model.config)
        self.model = model
        if not bool(model.mask_token.any()):  # One that was trained is kept.
            nn.init.trunc_normal_(model.mask_token, std=0.02)
        self.head = nn.Linear(model.config.embed_dim, pixels_of(model.patch_size, model.in_channels))

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Mean absolute error over the hidden pixels."""
        if MASK not in batch.extras:
            raise VitrailError("SimMIM needs to know which patches are hidden: make batches with SquaresView")
        mask = batch.extras[MASK]
        tokens = self.model.encode(self.model.embed(batch.images, mask=mask))
        error = (self.head(tokens.patches).float() - patchify(batch.images, self.model.patch_size)).abs().mean(dim=-1)
        return {"loss": (error * mask).sum() / mask.sum()}

    def roles(self) -> dict[str, Role]:
        """The model's own; the head stands behind its last block."""
        roles = {f"model.{name}": role for name, role in self.model.roles().items()}
        deepest = self.model.taps + 1
        return {**roles, "head.weight": Role(deepest, decay=True), "head.bias": Role(deepest, decay=False)}

    def export(self) -> nn.Module:
        """The encoder."""
        return self.model
