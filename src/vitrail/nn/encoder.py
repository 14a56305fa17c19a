"""The one loop over blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vitrail.nn.context import NO_CONTEXT, Context
from vitrail.nn.tokens import Tokens


class Encoder(nn.ModuleList):
    """A stack of blocks. It is itself the list of them, so an attribute ``blocks`` names them ``blocks.0.…``.

    Attributes:
        recompute: whether training keeps only what stands between blocks, and computes what happens inside them a
            second time on the way back (Chen et al. 2016): the same gradients, less memory, more time.
    """

    def __init__(self, blocks: Iterable[nn.Module] = ()) -> None:
        super().__init__(blocks)
        self.recompute = False

    def forward(self, tokens: Tokens, context: Context = NO_CONTEXT) -> Tokens:
        """Tokens through every block."""
        return self.taps(tokens, (len(self) - 1,), context)[0] if len(self) else tokens

    def leading(self, tokens: Tokens, count: int, context: Context = NO_CONTEXT) -> Tokens:
        """The first ``count`` tokens of :meth:`forward`, all of them prefix tokens.

        The last block works out no others, which saves three quarters of it.
        """
        for index, block in enumerate(self):
            last = index + 1 == len(self)
            tokens = self._step(block, tokens, context._replace(wanted=count) if last else context)
        return tokens.leading(count)

    def _step(self, block: nn.Module, tokens: Tokens, context: Context) -> Tokens:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, tokens, context, use_reentrant=False)
        return block(tokens, context)

    def taps(self, tokens: Tokens, depths: Sequence[int], context: Context = NO_CONTEXT) -> list[Tokens]:
        """What stands after chosen blocks, in the order asked for; blocks behind the deepest are not run.

        Blocks may merge tokens among themselves: what comes out stands on the grid that came in.

        Args:
            tokens: input of the first block.
            depths: block numbers, from 0; negative ones count from the end.
            context: side inputs of every block.

        Raises:
            IndexError: naming a block that does not exist.
        """
        for depth in depths:
            if not -len(self) <= depth < len(self):
                raise IndexError(f"there is no block {depth} in an encoder of {len(self)} blocks")
        wanted = [depth % len(self) for depth in depths]
        seen: dict[int, Tokens] = {}
        for index in range(max(wanted) + 1 if wanted else 0):
            tokens = self._step(self[index], tokens, context)
            if index in wanted:
                seen[index] = tokens.unmerged()
        return [seen[depth] for depth in wanted]


def recompute_blocks(model: nn.Module) -> int:
    """Set :attr:`Encoder.recompute` in every encoder within ``model``; tells how many there are."""
    encoders = [module for module in model.modules() if isinstance(module, Encoder)]
    for encoder in encoders:
        encoder.recompute = True
    return len(encoders)
