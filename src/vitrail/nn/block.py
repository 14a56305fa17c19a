"""Residual blocks: mixers over tokens and an MLP over channels, each on its own branch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.nn.context import NO_CONTEXT, Context
from vitrail.nn.residual import DropPath, LayerScale
from vitrail.nn.tokens import Tokens

Norm = Callable[[int], nn.Module]
Branch = Callable[[Tensor], Tensor]
Order = Callable[[Tensor, nn.Module, Branch], Tensor]
"""How values, a norm and a branch become new values. A branch may answer for the first tokens alone."""


def pre_norm(x: Tensor, norm: nn.Module, branch: Branch) -> Tensor:
    """``x + branch(norm(x))`` (Dosovitskiy et al. 2021, equations 2 and 3)."""
    added = branch(norm(x))
    return x[:, : added.shape[1]] + added


def post_norm(x: Tensor, norm: nn.Module, branch: Branch) -> Tensor:
    """``norm(x + branch(x))`` (Vaswani et al. 2017, section 3.1)."""
    added = branch(x)
    return norm(x[:, : added.shape[1]] + added)


def _scale(dim: int, layer_scale: float | None) -> nn.Module:
    return nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)


class SelfBlock(nn.Module, ABC):
    """A block of two steps, between which tokens stand on their own: they are mixed, then mapped each by itself.

    Attributes:
        attn: mixes tokens.
    """

    attn: nn.Module

    @abstractmethod
    def mix(self, tokens: Tokens, mixer: Callable[[Tokens], Tensor]) -> Tokens:
        """The first step, with :attr:`attn` or another mixer that gives new values of normalised tokens.

        Where the mixer answers for the first tokens alone, they are what comes out.
        """

    @abstractmethod
    def map_each(self, tokens: Tokens) -> Tokens:
        """The second step."""

    def forward(self, tokens: Tokens, context: Context = NO_CONTEXT) -> Tokens:
        """The same places, or those of them that the context says are wanted, mixed and mapped."""
        return self.map_each(self.mix(tokens, lambda given: self.attn(given, context)))


class Block(SelfBlock):
    """A mixing branch, then an MLP branch.

    Args:
        dim: width of a token.
        mixer: mixes tokens: a module called with tokens and context that gives new values ``(B, N, D)``.
        mlp: maps every token by itself.
        norm: makes a norm of a given width.
        layer_scale: initial factor on both branches; None for none.
        drop_path: rate of stochastic depth on both branches.
        order: where the norms stand.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        mlp: nn.Module,
        norm: Norm = nn.LayerNorm,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        order: Order = pre_norm,
    ) -> None:
        super().__init__()
        self.order = order
        self.norm1 = norm(dim)
        self.attn = mixer
        self.ls1 = _scale(dim, layer_scale)
        self.norm2 = norm(dim)
        self.mlp = mlp
        self.ls2 = _scale(dim, layer_scale)
        self.drop_path = DropPath(drop_path)

    def mix(self, tokens: Tokens, mixer: Callable[[Tokens], Tensor]) -> Tokens:
        """The mixing branch."""

        def branch(x: Tensor) -> Tensor:
            return self.drop_path(self.ls1(mixer(tokens.with_values(x))))

        values = self.order(tokens.values, self.norm1, branch)
        return tokens.leading(values.shape[1]).with_values(values)

    def map_each(self, tokens: Tokens) -> Tokens:
        """The MLP's branch."""

        def branch(x: Tensor) -> Tensor:
            return self.drop_path(self.ls2(self.mlp(x)))

        return tokens.with_values(self.order(tokens.values, self.norm2, branch))


class CrossBlock(nn.Module):
    """A decoder's block: mixing, reading the memory, an MLP, each on its own branch (Vaswani et al. 2017, figure 1).

    Args:
        dim: width of a token.
        mixer: mixes the tokens among themselves.
        cross: reads ``context.memory``.
        mlp: maps every token by itself.
        norm: makes a norm of a given width.
        drop_path: rate of stochastic depth on all branches.
        order: where the norms stand.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        cross: nn.Module,
        mlp: nn.Module,
        norm: Norm = nn.LayerNorm,
        drop_path: float = 0.0,
        order: Order = pre_norm,
    ) -> None:
        super().__init__()
        self.order = order
        self.norm1 = norm(dim)
        self.attn = mixer
        self.norm2 = norm(dim)
        self.cross = cross
        self.norm3 = norm(dim)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tokens, context: Context = NO_CONTEXT) -> Tokens:
        """The same places, mixed and informed."""
        x = tokens.values
        for norm, mixer in ((self.norm1, self.attn), (self.norm2, self.cross)):
            x = self.order(x, norm, lambda v, mixer=mixer: self.drop_path(mixer(tokens.with_values(v), context)))
        return tokens.with_values(self.order(x, self.norm3, lambda v: self.drop_path(self.mlp(v))))


class ConditionedBlock(nn.Module):
    """A block whose norms and branches are modulated by ``context.condition`` (adaLN-zero, Peebles & Xie 2023, 3.2).

    Both branches become ``x + gate · branch(norm(x) · (1 + scale) + shift)``; shift, scale and gate are a linear
    function of the condition that starts at zero, so that the block starts as the identity.

    Args:
        dim: width of a token and of the condition.
        mixer: mixes tokens.
        mlp: maps every token by itself.
        norm: makes a norm of a given width; it should have no weights of its own.
    """

    def __init__(self, dim: int, mixer: nn.Module, mlp: nn.Module, norm: Norm) -> None:
        super().__init__()
        self.norm1 = norm(dim)
        self.attn = mixer
        self.norm2 = norm(dim)
        self.mlp = mlp
        self.modulation = nn.Linear(dim, 6 * dim)
        self.reset_modulation()

    def reset_modulation(self) -> None:
        """The zero of adaLN-zero, for after an initialisation that filled all linear layers."""
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, tokens: Tokens, context: Context = NO_CONTEXT) -> Tokens:
        """The same places, mixed."""
        if context.condition is None:
            raise ValueError("a conditioned block reads context.condition, but there is none")
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            self.modulation(F.silu(context.condition)).unsqueeze(1).chunk(6, dim=-1)
        )
        x = tokens.values
        x = x + gate1 * self.attn(tokens.with_values(modulate(self.norm1(x), shift1, scale1)), context)
        x = x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))
        return tokens.with_values(x)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``x · (1 + scale) + shift``."""
    return x * (1 + scale) + shift


class ParallelBlock(SelfBlock):
    """Mixer and MLP side by side on one norm: ``x + mix(norm(x)) + mlp(norm(x))`` (ViT-22B, Dehghani et al. 2023, 2.1).

    It is done after the first step. Arguments as in :class:`Block`.
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

    def mix(self, tokens: Tokens, mixer: Callable[[Tokens], Tensor]) -> Tokens:
        """Both branches."""
        x = self.norm(tokens.values)
        mixed = self.drop_path(self.ls1(mixer(tokens.with_values(x))))
        count = mixed.shape[1]
        mapped = self.drop_path(self.ls2(self.mlp(x[:, :count])))
        return tokens.leading(count).with_values(tokens.values[:, :count] + mixed + mapped)

    def map_each(self, tokens: Tokens) -> Tokens:
        """Nothing is left to do."""
        return tokens
