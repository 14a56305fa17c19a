"""The text tower of a contrastive pair: token numbers into one vector for each sentence."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.models.plain import token
from vitrail.models.tower import make_block
from vitrail.nn.activation import ACTIVATIONS, ActivationName
from vitrail.nn.context import NO_CONTEXT, Context
from vitrail.nn.encoder import Encoder
from vitrail.nn.tokens import Tokens

TextPool = Literal["end", "last"]


class TextTower(nn.Module):
    """Token and position embeddings, an encoder, a norm, and the token that stands for the sentence.

    Sources: CLIP (Radford et al. 2021, section 2.4: causal, read at the end-of-text token); SigLIP (Zhai et al. 2023:
    every token sees all, padding included, read at the last place).

    Args:
        vocab_size: token numbers that there are.
        context_length: tokens of the longest sentence.
        dim, depth, num_heads, mlp_ratio: as in an image tower.
        causal: tokens see only those before them.
        pool: ``"end"``, the first ``end_token``; or ``"last"``, the last place.
        end_token: number that ends a sentence.
        activation: of every MLP.
        norm_eps: epsilon of every LayerNorm.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        causal: bool,
        pool: TextPool,
        end_token: int,
        activation: ActivationName,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.causal = causal
        self.pool_name = pool
        self.end_token = end_token
        norm = partial(nn.LayerNorm, eps=norm_eps)
        self.token_embed = nn.Embedding(vocab_size, dim)
        self.pos_embed = token(context_length, dim, std=0.01)
        self.blocks = Encoder(
            [make_block(dim, num_heads, mlp_ratio, norm, ACTIVATIONS[activation]) for _ in range(depth)]
        )
        self.norm = norm(dim)

    def embed(self, token_ids: Int[Tensor, "t l"]) -> Tokens:
        """What the first block sees; the grid is the row of tokens.

        Raises:
            VitrailError: more tokens than there are positions.
        """
        length = token_ids.shape[1]
        if length > self.context_length:
            raise VitrailError(f"a text of {length} tokens: this model reads at most {self.context_length}")
        return Tokens(self.token_embed(token_ids) + self.pos_embed[:, :length], grid=(length,))

    def context(self, length: int) -> Context:
        """Who sees whom."""
        if not self.causal:
            return NO_CONTEXT
        ones = torch.ones(length, length, dtype=torch.bool, device=self.pos_embed.device)
        return Context(mask=ones.tril()[None, None])

    def features(self, token_ids: Int[Tensor, "t l"]) -> Tokens:
        """All tokens after the last block and the final norm."""
        tokens = self.blocks(self.embed(token_ids), self.context(token_ids.shape[1]))
        return tokens.with_values(self.norm(tokens.values))

    def forward(self, token_ids: Int[Tensor, "t l"]) -> Float[Tensor, "t d"]:
        """One vector for each sentence."""
        values = self.features(token_ids).values
        if self.pool_name == "last":
            return values[:, -1]
        ends = (token_ids == self.end_token).int().argmax(dim=1)
        return values[torch.arange(len(values), device=values.device), ends]
