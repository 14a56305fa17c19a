"""Attention with a projection each for queries, keys and values: to itself with added positions, or to a memory."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from vitrail.nn.attention import Heads, Keys, Mask, MultiHeadAttention, Rows, rows_of_mask
from vitrail.nn.context import NO_CONTEXT, Context
from vitrail.nn.tokens import Tokens


class SeparateAttention(MultiHeadAttention):
    """Queries, keys and values through layers of their own; positions are added to queries and keys, not to values.

    Args:
        dim: width of a token.
        num_heads: heads, each ``inner / num_heads`` wide.
        memory_dim: width of what keys and values are made from; ``dim`` when None.
        inner: width of all heads together; ``dim`` when None.
        attention_dropout, dropout: as in :class:`~vitrail.nn.attention.MultiHeadAttention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        memory_dim: int | None = None,
        inner: int | None = None,
        attention_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        inner = inner or dim
        super().__init__(dim, inner, num_heads, attention_dropout, dropout)
        self.q = nn.Linear(dim, inner)
        self.k = nn.Linear(memory_dim or dim, inner)
        self.v = nn.Linear(memory_dim or dim, inner)

    @abstractmethod
    def source(self, tokens: Tokens, context: Context) -> tuple[Tokens, Tensor | None]:
        """The tokens that keys and values are made from, and what is added for the keys."""

    def queries(self, tokens: Tokens, context: Context, rows: Rows | None = None) -> Heads:
        """Queries ``(B, heads, N, head_dim)`` with their positions."""
        placed = _placed(tokens.values, context.positions)
        return self.split(self.q(placed if rows is None else placed[:, rows]))

    def keys(self, tokens: Tokens, context: Context) -> Keys:
        """Keys ``(B, heads, M, head_dim)`` with their positions."""
        source, positions = self.source(tokens, context)
        return self.split(self.k(_placed(source.values, positions)))

    def values(self, tokens: Tokens, context: Context) -> Keys:
        """Values ``(B, heads, M, head_dim)``."""
        return self.split(self.v(self.source(tokens, context)[0].values))

    def seen(self, tokens: Tokens, context: Context = NO_CONTEXT) -> Tokens:
        """The tokens that keys and values are made from."""
        return self.source(tokens, context)[0]


class PlacedAttention(SeparateAttention):
    """Self-attention in which ``context.positions`` are added to queries and keys alone (Carion et al. 2020, A.3)."""

    def source(self, tokens: Tokens, context: Context) -> tuple[Tokens, Tensor | None]:
        """The tokens themselves."""
        return tokens, context.positions

    def mask(self, query: Heads, tokens: Tokens, context: Context, rows: Rows | None = None) -> Mask | None:
        """The context's own."""
        return rows_of_mask(context.mask, rows)


class CrossAttention(SeparateAttention):
    """Attention to ``context.memory``; queries get ``context.positions``, keys the memory's."""

    def source(self, tokens: Tokens, context: Context) -> tuple[Tokens, Tensor | None]:
        """The memory."""
        if context.memory is None:
            raise ValueError("cross-attention reads context.memory, but there is none")
        return context.memory.tokens, context.memory.positions

    def mask(self, query: Heads, tokens: Tokens, context: Context, rows: Rows | None = None) -> Mask | None:
        """The memory's."""
        return None if context.memory is None else rows_of_mask(context.memory.mask, rows)


def _placed(values: Tensor, positions: Tensor | None) -> Tensor:
    return values if positions is None else values + positions
