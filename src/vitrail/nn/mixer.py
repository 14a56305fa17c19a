"""What mixes tokens: the part of a block that lets one place know of another."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.nn.context import NO_CONTEXT, Context
from vitrail.nn.tokens import Tokens


class Mixer(nn.Module, ABC):
    """New values for all tokens from what they can see, and an account of what they saw."""

    @abstractmethod
    def forward(self, tokens: Tokens, context: Context = NO_CONTEXT) -> Float[Tensor, "b wanted d"]:
        """The mix of every token, or at least of those that ``context.wanted`` names."""

    @abstractmethod
    def weights(
        self, tokens: Tokens, context: Context = NO_CONTEXT, queries: Int[Tensor, " q"] | None = None
    ) -> Float[Tensor, "b heads q k"]:
        """How much chosen tokens take from every token of :meth:`seen`, in float32, rows summing to one.

        Args:
            tokens: input of this mixer (after the block's norm).
            context: as in the forward pass.
            queries: places in the sequence whose rows are wanted; None for all of them.
        """

    def seen(self, tokens: Tokens, context: Context = NO_CONTEXT) -> Tokens:
        """The tokens that the columns of :meth:`weights` belong to: its own, unless it reads a memory."""
        return tokens
