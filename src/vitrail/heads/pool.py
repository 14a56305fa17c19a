"""One vector for a picture: by class token, mean of the patches, both, or attention."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.nn.mlp import Mlp
from vitrail.nn.tokens import Tokens


class Pool(nn.Module, ABC):
    """Tokens to one vector.

    Attributes:
        reads: how many tokens, from the first on, it looks at; None for all.
    """

    reads: int | None = None

    @abstractmethod
    def forward(self, tokens: Tokens) -> Float[Tensor, "b f"]:
        """One row for each picture."""


class ClassTokenPool(Pool):
    """The class token: the first one."""

    reads = 1

    def forward(self, tokens: Tokens) -> Float[Tensor, "b d"]:
        """``(B, D)``."""
        return require_class_token(tokens).values[:, 0]


class MeanPool(Pool):
    """The mean of the patches; class, distillation and register tokens are left out."""

    def forward(self, tokens: Tokens) -> Float[Tensor, "b d"]:
        """``(B, D)``."""
        return tokens.patches.mean(dim=1)


class ClassMeanPool(Pool):
    """Class token and mean of the patches side by side: what DINOv2's linear probe reads (appendix B.3)."""

    def forward(self, tokens: Tokens) -> Float[Tensor, "b d2"]:
        """``(B, 2·D)``."""
        return torch.cat([require_class_token(tokens).values[:, 0], tokens.patches.mean(dim=1)], dim=1)


def require_class_token(tokens: Tokens, count: int = 1) -> Tokens:
    """The same tokens, which begin with a class token, and of which the first ``count`` are no patches.

    Raises:
        VitrailError: they begin with a register or a patch, or there are patches among the first.
    """
    if not tokens.class_token or tokens.prefix < count:
        raise VitrailError("this model has no class token: pool the mean of the patches (pool 'mean')")
    return tokens


class AttentionPool(Pool):
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
POOLS: dict[PoolName, Callable[[int, int, float], Pool]] = {
    "class": lambda dim, heads, mlp_ratio: ClassTokenPool(),
    "mean": lambda dim, heads, mlp_ratio: MeanPool(),
    "class_mean": lambda dim, heads, mlp_ratio: ClassMeanPool(),
    "attention": AttentionPool,
}
"""A pool by its name; each is made from the token width, the number of heads and the width of an MLP over the first."""


def pooled_width(pool: PoolName, dim: int) -> int:
    """Length of the vector that a pool gives."""
    return 2 * dim if pool == "class_mean" else dim
