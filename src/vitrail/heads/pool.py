"""One vector for a picture: by class token, mean of the patches, both, or attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.nn.mlp import Mlp
from vitrail.nn.tokens import Tokens


class ClassTokenPool(nn.Module):
    """The first token."""

    def forward(self, tokens: Tokens) -> Float[Tensor, "b d"]:
        """``(B, D)``."""
        return _class_token(tokens)


class MeanPool(nn.Module):
    """The mean of the patches; class, distillation and register tokens are left out."""

    def forward(self, tokens: Tokens) -> Float[Tensor, "b d"]:
        """``(B, D)``."""
        return tokens.patches.mean(dim=1)


class ClassMeanPool(nn.Module):
    """Class token and mean of the patches side by side: what DINOv2's linear probe reads (appendix B.3)."""

    def forward(self, tokens: Tokens) -> Float[Tensor, "b d2"]:
        """``(B, 2·D)``."""
        return torch.cat([_class_token(tokens), tokens.patches.mean(dim=1)], dim=1)


def _class_token(tokens: Tokens) -> Float[Tensor, "b d"]:
    """The first token.

    Raises:
        VitrailError: it is a patch.
    """
    if tokens.prefix == 0:
        raise VitrailError("this model has no class token: pool the mean of the patches (pool 'mean')")
    return tokens.values[:, 0]


class AttentionPool(nn.Module):
    """A learned query attends to the patches, then a residual MLP (Zhai et al. 2022, the MAP head; SigLIP).

    Class, distillation and register tokens are left out, as timm does; the published models have none.

    Args:
        dim: width of a token.
        num_heads: heads of the attention.
        mlp_ratio: width of the MLP over ``dim``.
        eps: of the norm.
        activation: makes the non-linearity of the MLP.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        eps: float = 1e-6,
        activation: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.latent = nn.Parameter(torch.empty(1, 1, dim))
        nn.init.trunc_normal_(self.latent, std=dim**-0.5)
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), activation)

    def forward(self, tokens: Tokens) -> Float[Tensor, "b d"]:
        """``(B, D)``."""
        patches = tokens.patches
        batch = patches.shape[0]
        query = self.q(self.latent).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        kv = self.kv(patches).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query.expand(batch, -1, -1, -1), kv[0], kv[1])
        pooled = self.proj(mixed.transpose(1, 2).flatten(2))
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]


PoolName = Literal["class", "mean", "class_mean", "attention"]
POOLS: dict[PoolName, Callable[[int, int, float], nn.Module]] = {
    "class": lambda dim, heads, mlp_ratio: ClassTokenPool(),
    "mean": lambda dim, heads, mlp_ratio: MeanPool(),
    "class_mean": lambda dim, heads, mlp_ratio: ClassMeanPool(),
    "attention": AttentionPool,
}
"""A pool by its name; each is made from the token width, the number of heads and the width of an MLP over the first."""


def pooled_width(pool: PoolName, dim: int) -> int:
    """Length of the vector that a pool gives."""
    return 2 * dim if pool == "class_mean" else dim
