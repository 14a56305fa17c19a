"""A block that hands on fewer tokens than it was given, around any block of two steps.

Source: token merging (Bolya et al. 2023, "Token Merging: Your ViT But Faster", section 3).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.nn.attention import MultiHeadAttention, add_masks
from vitrail.nn.block import SelfBlock
from vitrail.nn.context import NO_CONTEXT, Context
from vitrail.nn.matching import match_patches, merge_patches
from vitrail.nn.mixer import Mixer
from vitrail.nn.tokens import Tokens


class ProportionalAttention(Mixer):
    """Attention in which a merged token counts as often as it has patches.

    The logarithm of their number is added to its scores, so that every token sees what it would see if each patch still
    stood there with the merged value (section 3, "Tracking token size"). Behind the mix, along the channels, comes what
    merging compares tokens by: their keys, the mean over the heads.

    Args:
        attention: self-attention; its parameters stay its own.
    """

    def __init__(self, attention: MultiHeadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, tokens: Tokens, context: Context = NO_CONTEXT) -> Float[Tensor, "b wanted both"]:
        """``(B, N, D + head_dim)``: the mix of every token that is wanted, and its key."""
        query, key, value = self.attention.project(tokens, context)
        mixed = self.attention.join(query, key, value, tokens, _with_sizes(tokens, context, key.dtype))
        return torch.cat([mixed, key.mean(dim=1)[:, : mixed.shape[1]]], dim=-1)

    def weights(
        self, tokens: Tokens, context: Context = NO_CONTEXT, queries: Int[Tensor, " q"] | None = None
    ) -> Float[Tensor, "b heads q n"]:
        """Rows over the merged tokens; :meth:`Tokens.share_out` brings them to the patches."""
        return self.attention.weights(tokens, _with_sizes(tokens, context, torch.float32), queries)


def _with_sizes(tokens: Tokens, context: Context, dtype: torch.dtype) -> Context:
    """The context with the sizes' logarithms in its mask, of the type of the scores."""
    if tokens.merged is None:
        return context
    return context._replace(mask=add_masks(tokens.sizes.log().to(dtype)[:, None, None], context.mask))


class MergingBlock(nn.Module):
    """A block that merges patches into their likes between its two steps; prefix tokens are never merged.

    Args:
        block: its mixer is a :class:`ProportionalAttention`.
        count: patches that are given up in every picture; at most half of those that there are (as in the paper).
    """

    def __init__(self, block: SelfBlock, count: int) -> None:
        super().__init__()
        self.block = block
        self.count = count

    def forward(self, tokens: Tokens, context: Context = NO_CONTEXT) -> Tokens:
        """Fewer tokens, mixed and mapped."""
        if tokens.keep is not None and tokens.merged is None:
            raise ValueError("merging needs every patch of the grid: some were dropped before the first block")
        width = tokens.values.shape[-1]
        keys: list[Tensor] = []

        def mixer(given: Tokens) -> Tensor:
            both = self.block.attn(given, context)
            keys.append(both[..., width:])
            return both[..., :width]

        mixed = self.block.mix(tokens, mixer)
        # Where no patch is wanted any more, there is none left to merge.
        count = min(self.count, mixed.patches.shape[1] // 2)
        if count:
            mixed = merge_patches(mixed, match_patches(keys[0][:, tokens.prefix :], count))
        return self.block.map_each(mixed)

    def extra_repr(self) -> str:
        """How many, in ``repr(model)``."""
        return f"count={self.count}"
