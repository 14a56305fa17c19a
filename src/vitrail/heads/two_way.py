"""A decoder in which queries read the picture and the picture reads the queries.

Source: SAM (Kirillov et al. 2023, appendix A, "Lightweight mask decoder").
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.nn.block import post_norm
from vitrail.nn.context import Context, Memory
from vitrail.nn.cross import CrossAttention, PlacedAttention
from vitrail.nn.mlp import Mlp
from vitrail.nn.tokens import Tokens

Mix = Callable[[Tokens, Tensor, nn.Module, nn.Module], Tensor]
"""How queries, their positions, a norm and an attention become new queries."""

FINAL_EPS = 1e-5


def mix_and_add(queries: Tokens, places: Tensor, norm: nn.Module, attention: nn.Module) -> Float[Tensor, "b q d"]:
    """Queries that know their positions, on a residual branch."""
    context = Context(positions=places)
    return post_norm(queries.values, norm, lambda x: attention(queries.with_values(x), context))


def mix_afresh(queries: Tokens, places: Tensor, norm: nn.Module, attention: nn.Module) -> Float[Tensor, "b q d"]:
    """For the first block, whose queries are nothing but their positions: these are not added a second time."""
    return norm(attention(queries))


class TwoWayBlock(nn.Module):
    """Queries among themselves, queries to picture, an MLP on the queries, picture to queries; each behind its norm.

    Args:
        dim: width of a token.
        num_heads: heads of every attention; those between queries and picture are half as wide in all.
        mlp_dim: width of the MLP.
        mix: what happens to queries among themselves.
        eps: of the norms.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, mix: Mix = mix_and_add, eps: float = 1e-5) -> None:
        super().__init__()
        self.mix = mix
        self.attn = PlacedAttention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.image_attn = CrossAttention(dim, num_heads, inner=dim // 2)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, mlp_dim, activation=nn.ReLU)
        self.norm3 = nn.LayerNorm(dim, eps=eps)
        self.query_attn = CrossAttention(dim, num_heads, inner=dim // 2)
        self.norm4 = nn.LayerNorm(dim, eps=eps)

    def forward(self, queries: Tokens, image: Tokens, places: Tensor, image_places: Tensor) -> tuple[Tokens, Tokens]:
        """New queries and a new picture.

        Args:
            queries: ``(B, Q, D)``.
            image: ``(B, N, D)``.
            places: positions of the queries, ``(B, Q, D)``.
            image_places: positions of the patches, broadcastable to ``(B, N, D)``.
        """
        x = self.mix(queries, places, self.norm1, self.attn)
        reads_image = Context(positions=places, memory=Memory(image, image_places))
        x = post_norm(x, self.norm2, lambda v: self.image_attn(queries.with_values(v), reads_image))
        queries = queries.with_values(post_norm(x, self.norm3, self.mlp))
        reads_queries = Context(positions=image_places, memory=Memory(queries, places))
        y = post_norm(image.values, self.norm4, lambda v: self.query_attn(image.with_values(v), reads_queries))
        return queries, image.with_values(y)


class TwoWayTransformer(nn.Module):
    """Blocks of that kind, and a last look of the queries at the picture.

    Args:
        dim, num_heads, mlp_dim: as in :class:`TwoWayBlock`.
        depth: number of blocks.
        eps: of the norms inside the blocks; the last one's is 1e-5.
    """

    def __init__(self, dim: int, depth: int, num_heads: int, mlp_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        mixes = [mix_afresh, *[mix_and_add] * (depth - 1)]
        self.blocks = nn.ModuleList(TwoWayBlock(dim, num_heads, mlp_dim, mix, eps) for mix in mixes[:depth])
        self.final_attn = CrossAttention(dim, num_heads, inner=dim // 2)
        self.final_norm = nn.LayerNorm(dim, eps=FINAL_EPS)

    def forward(self, queries: Tokens, image: Tokens, image_places: Tensor) -> tuple[Tokens, Tokens]:
        """Queries and picture after all blocks; the queries as they come in are their own positions.

        Args:
            queries: ``(B, Q, D)``.
            image: ``(B, N, D)``.
            image_places: positions of the patches, broadcastable to ``(B, N, D)``.
        """
        places = queries.values
        for block in self.blocks:
            queries, image = block(queries, image, places, image_places)
        context = Context(positions=places, memory=Memory(image, image_places))
        x = post_norm(queries.values, self.final_norm, lambda v: self.final_attn(queries.with_values(v), context))
        return queries.with_values(x), image
