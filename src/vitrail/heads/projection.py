"""The projection head of self-distillation: features into scores of many prototypes.

Sources: DINO (Caron et al. 2021, section 3.1 and appendix C); DINOv2 and iBOT have the same for classes and patches.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.nn.init import init_trunc_normal


class ProjectionHead(nn.Module):
    """An MLP with GELU down to a bottleneck of length one, then the cosine with each of ``prototypes`` directions.

    The directions are a weight-normalised linear layer whose magnitudes stay 1: only where its rows point counts, and
    scores lie in -1 … 1.

    Args:
        dim: width of the features.
        prototypes: how many scores.
        hidden: width between the layers of the MLP.
        bottleneck: width that the MLP ends in.
        layers: of the MLP, at least 1.
    """

    def __init__(self, dim: int, prototypes: int, hidden: int = 2048, bottleneck: int = 256, layers: int = 3) -> None:
        super().__init__()
        if min(dim, prototypes, hidden, bottleneck, layers) < 1:
            raise ValueError(f"widths and layers of a projection head are at least 1, not {(dim, prototypes, layers)}")
        widths = [dim, *[hidden] * (layers - 1), bottleneck]
        parts: list[nn.Module] = []
        for before, after in pairwise(widths):
            parts += [nn.Linear(before, after), nn.GELU()]
        self.mlp = nn.Sequential(*parts[:-1])
        self.last_layer = nn.Linear(bottleneck, prototypes, bias=False)
        init_trunc_normal(self.mlp)

    def forward(self, features: Float[Tensor, "*b d"], learn_last: bool = True) -> Float[Tensor, "*b k"]:
        """Scores of all prototypes.

        Args:
            features: any number of them.
            learn_last: whether gradients reach the prototypes (DINO keeps them as they are for the first epoch).
        """
        inner = F.normalize(self.mlp(features), dim=-1, eps=1e-6)
        directions = self.last_layer.weight if learn_last else self.last_layer.weight.detach()
        return F.linear(inner, F.normalize(directions, dim=-1))
