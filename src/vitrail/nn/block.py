"""Residual blocks: a mixer over tokens and an MLP over channels, each on its own branch."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from vitrail.nn.context import NO_CONTEXT, Context
from vitrail.nn.residual import DropPath, LayerScale
from vitrail.nn.tokens import Tokens

Norm = Callable[[int], nn.Module]


def _scale(dim: int, layer_scale: float | None) -> nn.Module:
    return nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)


class Block(nn.Module):
    """Pre-norm residual block: ``x + mix(norm(x))``, then ``x + mlp(norm(x))`` (Dosovitskiy et al. 2021, eq. 2-3).

    Args:
        dim: width of a token.
        mixer: mixes tokens: a module called with tokens and context that gives new values ``(B, N, D)``.
        mlp: maps every token by itself.
        norm: makes a norm of a given width.
        layer_scale: initial factor on both branches; None for none.
        drop_path: rate of stochastic depth on both branches.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        mlp: nn.Module,
        norm: Norm = nn.LayerNorm,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = norm(dim)
        self.attn = mixer
        self.ls1 = _scale(dim, layer_scale)
        self.norm2 = norm(dim)
        self.mlp = mlp
        self.ls2 = _scale(dim, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tokens, context: Context = NO_CONTEXT) -> Tokens:
        """The same places, mixed."""
        x = tokens.values
        x = x + self.drop_path(self.ls1(self.attn(tokens.with_values(self.norm1(x)), context)))
        x = x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
        return tokens.with_values(x)


class ParallelBlock(nn.Module):
    """Mixer and MLP side by side on one norm: ``x + mix(norm(x)) + mlp(norm(x))`` (ViT-22B, Dehghani et al. 2023, 2.1).

    Arguments as in :class:`Block`.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        mlp: nn.Module,
        norm: Norm = nn.LayerNorm,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm = norm(dim)
        self.attn = mixer
        self.ls1 = _scale(dim, layer_scale)
        self.mlp = mlp
        self.ls2 = _scale(dim, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tokens, context: Context = NO_CONTEXT) -> Tokens:
        """The same places, mixed."""
        x = self.norm(tokens.values)
        mixed = self.drop_path(self.ls1(self.attn(tokens.with_values(x), context)))
        mapped = self.drop_path(self.ls2(self.mlp(x)))
        return tokens.with_values(tokens.values + mixed + mapped)
