"""Boxes from queries: a class and a box for each, and what is left of them for people.

Every query answers for at most one object, so that nothing has to be suppressed afterwards (Carion et al. 2020, 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.ops import box_convert

from vitrail.contracts import VitrailError


class BoxMlp(nn.Module):
    """Linear layers with ReLU between them, the last one four wide (Carion et al. 2020, section 3.2).

    Args:
        dim: width of a query and of the hidden layers.
        depth: how many layers.
    """

    def __init__(self, dim: int, depth: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, dim if i + 1 < depth else 4) for i in range(depth))

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b 4"]:
        """Four numbers of any size for every query."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class DetectionHead(nn.Module):
    """A class, "no object" among them, and a box for every query.

    Args:
        dim: width of a query.
        num_classes: classes of objects; one more logit stands behind them for "no object".
        depth: layers of the box's MLP.
    """

    def __init__(self, dim: int, num_classes: int, depth: int = 3) -> None:
        super().__init__()
        self.class_embed = nn.Linear(dim, num_classes + 1)
        self.bbox_embed = BoxMlp(dim, depth)

    def forward(self, queries: Float[Tensor, "*b d"]) -> tuple[Float[Tensor, "*b k"], Float[Tensor, "*b 4"]]:
        """Logits, and boxes as centre x and y, width and height in shares of the picture."""
        # In bf16 a box would be rounded to several pixels, and so few tokens cost nothing.
        # Where there are no numbers nothing is rounded, and autocast does not know that device.
        with nullcontext() if queries.is_meta else torch.autocast(queries.device.type, enabled=False):
            queries = queries.to(self.class_embed.weight.dtype)
            return self.class_embed(queries), self.bbox_embed(queries).sigmoid()


class Detections(NamedTuple):
    """The objects found in one picture, surest first.

    Attributes:
        scores: probability of the class, 0 … 1.
        labels: number of the class.
        boxes: left, top, right, bottom in pixels of the picture; they may reach a little beyond its border.
    """

    scores: Float[Tensor, " n"]
    labels: Int[Tensor, " n"]
    boxes: Float[Tensor, "n 4"]


def detections(
    logits: Float[Tensor, "b q k"],
    boxes: Float[Tensor, "b q 4"],
    sizes: Int[Tensor, "b 2"] | Sequence[tuple[int, int]],
    threshold: float = 0.7,
) -> list[Detections]:
    """What the queries of each picture found.

    Args:
        logits: of the classes, "no object" last.
        boxes: centre x and y, width, height, in shares of the picture without its padding.
        sizes: ``(height, width)`` of every picture in the pixels wanted: those of the original.
        threshold: objects of a lower probability are left out; 0 keeps every query.

    Raises:
        VitrailError: not one size for each picture, or a threshold outside 0 … 1.
    """
    if len(sizes) != len(logits):
        raise VitrailError(f"{len(logits)} pictures were looked at, but {len(sizes)} sizes were given")
    if not 0.0 <= threshold <= 1.0:
        raise VitrailError(f"threshold must lie in 0 … 1, not {threshold}")
    # "No object" takes its share of the softmax, but is never the answer.
    scores, labels = logits.float().softmax(dim=-1)[..., :-1].max(dim=-1)
    height, width = torch.as_tensor(sizes, device=boxes.device).to(torch.float32).unbind(dim=-1)
    scale = torch.stack([width, height, width, height], dim=-1)[:, None]
    corners = box_convert(boxes.float(), "cxcywh", "xyxy") * scale
    found = []
    for score, label, corner in zip(scores, labels, corners, strict=True):
        order = score.argsort(descending=True, stable=True)
        order = order[score[order] >= threshold]
        found.append(Detections(score[order], label[order], corner[order]))
    return found
