"""What blocks may look at besides their tokens; one value, so that the loop over blocks never grows arguments."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from vitrail.nn.tokens import Tokens


class Memory(NamedTuple):
    """Other tokens that queries may read from.

    Attributes:
        tokens: where keys and values come from, ``(B, M, C)`` and the grid that they stand on.
        positions: added to the keys, not to the values; broadcastable to ``(B, M, C)``.
        mask: as in :class:`Context`, over the ``M`` keys.
    """

    tokens: Tokens
    positions: Tensor | None = None
    mask: Tensor | None = None


class Rotary(NamedTuple):
    """Angles of the rotary positions, as cosines and sines.

    Attributes:
        cos, sin: ``(N, head_dim)``, a row for every patch; prefix tokens are not turned.
    """

    cos: Tensor
    sin: Tensor


class Context(NamedTuple):
    """Side inputs of every block in a stack.

    Attributes:
        mask: added to the attention scores when float, or True where a key may be seen when bool; broadcastable to
            ``(B, heads, queries, keys)``. A first dimension that divides B repeats: the windows of one picture after
            those of another.
        positions: added to queries (and, attending to themselves, keys) but not to values, ``(B, N, D)``.
        rotary: turns queries and keys by their place on the grid.
        memory: what cross-attention reads.
        condition: one vector per sample that modulates the blocks, ``(B, C)``.
        wanted: how many tokens, from the first on, anyone reads of what comes out: a block may leave out the others.
            None for all.
    """

    mask: Tensor | None = None
    positions: Tensor | None = None
    rotary: Rotary | None = None
    memory: Memory | None = None
    condition: Tensor | None = None
    wanted: int | None = None


NO_CONTEXT = Context()
