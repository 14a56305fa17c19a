"""Where a picture lies in the model's input: the way there for prompts, and back for answers."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


@dataclass(frozen=True)
class Placement:
    """How one picture was brought to the model's size; all numbers are in rows, then columns.

    Coordinates run from 0 at the picture's left and upper edge; a box or point maps by scale and shift alone.

    Attributes:
        picture: its own size in pixels.
        cut: rows and columns at the top and left that were left out before it was resized.
        kept: size of what was resized.
        resized: what it was resized to.
        offset: where its first pixel came to lie in the input; negative when it was cropped.
        size: of the input.
    """

    picture: Size
    cut: Size
    kept: Size
    resized: Size
    offset: Size
    size: Size

    def points_in(self, points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Points ``(x, y)`` of the picture in pixels of the model's input."""
        cut, scale, offset = self._numbers(points)
        return (points - cut) * scale + offset

    def points_out(self, points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """The inverse of :meth:`points_in`."""
        cut, scale, offset = self._numbers(points)
        return (points - offset) / scale + cut

    def boxes_in(self, boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
        """Boxes ``(x0, y0, x1, y1)`` of the picture in pixels of the model's input."""
        return self.points_in(boxes.unflatten(-1, (2, 2))).flatten(-2)

    def masks_in(self, masks: Float[Tensor, "b height width"], size: Size) -> Float[Tensor, "b h w"]:
        """Maps on the picture's pixels as maps over the whole input; what is not of the picture is 0.

        Args:
            masks: one value for each pixel of the picture.
            size: rows and columns wanted, any: they cover the input.
        """
        (top, left), (height, width) = self.cut, self.kept
        kept = masks[:, None, top : top + height, left : left + width]
        kept = F.interpolate(kept, self.resized, mode="bilinear", align_corners=False, antialias=True)
        above, before = self.offset
        below, behind = (s - r - o for s, r, o in zip(self.size, self.resized, self.offset, strict=True))
        whole = F.pad(kept, (before, behind, above, below))
        return F.interpolate(whole, size, mode="bilinear", align_corners=False, antialias=True)[:, 0]

    def masks_out(self, masks: Float[Tensor, "b h w"], fill: float = 0.0) -> Float[Tensor, "b height width"]:
        """Maps over the input (of any resolution) as maps on the picture's pixels, bilinear.

        Args:
            masks: logits, scores … that cover the whole input.
            fill: for parts of the picture that were cropped away.
        """
        whole = F.interpolate(masks[:, None], self.size, mode="bilinear", align_corners=False)
        above, before = (-o for o in self.offset)
        below, behind = (r + o - s for s, r, o in zip(self.size, self.resized, self.offset, strict=True))
        resized = F.pad(whole, (before, behind, above, below), value=fill)
        kept = F.interpolate(resized, self.kept, mode="bilinear", align_corners=False)[:, 0]
        top, left = self.cut
        bottom, right = (p - k - c for p, k, c in zip(self.picture, self.kept, self.cut, strict=True))
        return F.pad(kept, (left, right, top, bottom), value=fill)

    def _numbers(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cut, scale and offset as ``(x, y)``."""
        scale = [new / old for new, old in zip(self.resized, self.kept, strict=True)]
        cut, factor, offset = (like.new_tensor(pair[::-1]) for pair in (list(self.cut), scale, list(self.offset)))
        return cut, factor, offset
