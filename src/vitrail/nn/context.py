"""What blocks may look at besides their tokens; one value, so that the loop over blocks never grows arguments."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Context(NamedTuple):
    """Side inputs of every block in a stack.

    Attributes:
        mask: added to the attention scores when float, or True where a key may be seen when bool; broadcastable to
            ``(B, heads, queries, keys)``.
    """

    mask: Tensor | None = None


NO_CONTEXT = Context()
