"""Points, boxes and rough masks into tokens of the width that a mask decoder works in.

Source: SAM (Kirillov et al. 2023, section 3 and appendix A, "Prompt encoder").
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.nn.fourier import FourierPositions
from vitrail.nn.norm import LayerNorm2d

NOTHING, BESIDE, ON, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3
"""What a point can be: a place holder, beside the object, on it, or a corner of its box."""


class PromptEncoder(nn.Module):
    """Every point is the sum of its position and of a learned vector for its kind; a mask is shrunk by convolutions.

    Args:
        dim: width of a token.
        mask_channels: of the first steps of shrinking a mask, a multiple of 4.
    """

    def __init__(self, dim: int, mask_channels: int = 16) -> None:
        super().__init__()
        self.positions = FourierPositions(dim)
        self.kinds = nn.Parameter(torch.randn(5, dim))
        self.no_mask = nn.Parameter(torch.randn(1, dim))
        self.shrink = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, dim, 1),
        )

    def points(
        self, points: Float[Tensor, "b n 2"], labels: Int[Tensor, "b n"], size: tuple[int, int]
    ) -> Float[Tensor, "b n d"]:
        """Tokens of points.

        Args:
            points: ``(x, y)`` in pixels of the model's input; whole numbers are the pixels' middles.
            labels: kinds, from -1 (the token says "no point" and nothing of the place) to 3.
            size: height and width of the model's input.
        """
        scale = points.new_tensor([size[1], size[0]], dtype=torch.float32)
        positions = self.positions((points.float() + 0.5) / scale)
        kinds = F.embedding(labels.long() + 1, self.kinds)
        return torch.where((labels == NOTHING).unsqueeze(-1), kinds, positions + kinds)

    def boxes(self, boxes: Float[Tensor, "b 4"], size: tuple[int, int]) -> Float[Tensor, "b 2 d"]:
        """Tokens of the two corners of boxes ``(x0, y0, x1, y1)``, in pixels of the model's input."""
        labels = torch.tensor([TOP_LEFT, BOTTOM_RIGHT], device=boxes.device).expand(len(boxes), -1)
        return self.points(boxes.unflatten(1, (2, 2)), labels, size)

    def sparse(
        self,
        points: Float[Tensor, "b n 2"] | None,
        labels: Int[Tensor, "b n"] | None,
        boxes: Float[Tensor, "b 4"] | None,
        size: tuple[int, int],
    ) -> list[Float[Tensor, "b k d"]]:
        """Tokens of points and boxes, in this order; points without a box are followed by a place holder."""
        found: list[Tensor] = []
        if points is not None and labels is not None:
            if boxes is None:
                points, labels = F.pad(points, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=NOTHING)
            found.append(self.points(points, labels, size))
        if boxes is not None:
            found.append(self.boxes(boxes, size))
        return found

    def dense(self, masks: Float[Tensor, "b h4 w4"] | None) -> Float[Tensor, "b_or_1 n_or_1 d"]:
        """What is added to every patch: a shrunk mask row by row, or one vector that says that there is none.

        Args:
            masks: logits on a grid four times as fine as the patches'.
        """
        if masks is None:
            return self.no_mask[None]
        return self.shrink(masks.unsqueeze(1).to(self.no_mask.dtype)).flatten(2).transpose(1, 2)
