"""VideoMAE: hide nine tenths of a clip in tubes, predict their pixels from the rest.

Source: VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training (Tong et al.
2022).

| section of the paper | here |
|---|---|
| 3.1, equation 1: squared error on what is hidden | :meth:`VideoMAE.forward` |
| 3.3 "Temporal downsampling": frames taken with a stride | :class:`vitrail.data.ClipSource` |
| 3.3 "Cube embedding" | :class:`vitrail.models.VideoTransformer` |
| 3.3 "Tube masking with extremely high ratios": one mask for all frames, 90 % | :class:`TubeView` |
| 3.3 "Backbone": the visible tokens attend to each other, the hidden are never computed | ``self.model(…, keep, …)`` |
| the authors' code: every band of a tubelet by its own mean and deviation | :meth:`VideoMAE.targets` |
| implementation details: one crop and one mirror image for all frames, no colours | what :class:`TubeView` is given |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vitrail.contracts import Batch, Method, Progress, Role, VitrailError
from vitrail.data.finish import Sample
from vitrail.models.videomae import MaskedVideoAutoencoder
from vitrail.nn.masking import dropped_of, tube_keep
from vitrail.nn.tokens import Grid, take_patches

KEEP = "keep"
"""The extra of a batch that names the visible tubelets, ``(B, K)``."""


@dataclass(frozen=True)
class VideoMAEOptions:
    """The numbers of the paper.

    Attributes:
        mask_ratio: share of the places that are hidden, in all frames alike.
        normalise: predict each tubelet's pixels by their own mean and deviation.
        stride: frames of the file from one frame of a clip to the next (4 for Kinetics, 2 for Something-Something).
    """

    mask_ratio: float = 0.9
    normalise: bool = True
    stride: int = 4

    def __post_init__(self) -> None:
        if not 0.0 < self.mask_ratio < 1.0:
            raise VitrailError(f"mask_ratio must lie between 0 and 1, not {self.mask_ratio}")
        if self.stride < 1:
            raise VitrailError(f"stride must be at least 1, not {self.stride}")


class TubeView:
    """A clip's view, and the tubes of it that the encoder may see.

    The draw belongs to the sample, as its crop does: it depends on seed, epoch and clip alone.

    Args:
        view: from frames ``(T, C0, H0, W0)`` to the model's input ``(C, T, H, W)``.
        grid: of the model's tubelets, ``(T, H, W)``.
        mask_ratio: share of the places that are hidden.
    """

    def __init__(self, view: Callable[[Tensor], Sample], grid: Grid, mask_ratio: float) -> None:
        self.view = view
        self.grid = grid
        self.mask_ratio = mask_ratio

    def __call__(self, frames: UInt8[Tensor, "t c0 h0 w0"]) -> dict[str, Sample]:
        """``"images"`` and :data:`KEEP`."""
        return {"images": self.view(frames), KEEP: tube_keep(1, self.grid, self.mask_ratio)[0]}


class VideoMAE(Method):
    """Trains a video encoder by what it must know of a clip to fill in the rest of it.

    Args:
        model: encoder and decoder.
        mean, std: that clips were normalised with, band by band: the authors' targets are of the pixels before.
        normalise: whether every tubelet's pixels are predicted by their own mean and deviation.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: MaskedVideoAutoencoder, mean: Sequence[float], std: Sequence[float], normalise: bool = True
    ) -> None:
        super().__init__()
        self.model = model
        self.normalise = normalise
        self.register_buffer("mean", torch.tensor(mean)[:, None, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None, None], persistent=False)

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Mean squared error over the hidden tubelets' pixels; the visible ones are not even predicted."""
        if KEEP not in batch.extras:
            raise VitrailError(f"VideoMAE must know which tubes it may see: make batches with {TubeView.__name__}")
        keep = batch.extras[KEEP]
        targets = self.targets(batch.images)
        hidden = dropped_of(keep, targets.shape[1])
        predicted = self.model(batch.images, keep, hidden).float()
        return {"loss": (predicted - take_patches(targets, hidden)).square().mean()}

    @torch.no_grad()
    def targets(self, clips: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b n p"]:
        """What is to be predicted of every tubelet: pixels on the scale 0 … 1, normalised in each where asked for."""
        return self.model.targets(clips * self.std + self.mean, self.normalise)

    def roles(self) -> dict[str, Role]:
        """The model's own."""
        return {f"model.{name}": role for name, role in self.model.roles().items()}

    def export(self) -> nn.Module:
        """The encoder; the decoder has done its part."""
        return self.model.encoder
