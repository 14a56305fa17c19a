"""Pretrained weights for a model that differs from theirs: other bands, patches or classes. What families share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitrail.models import ModelConfig
from vitrail.nn.embed import as_pair
from vitrail.nn.position import RESIZES, ResizeName, resize_positions
from vitrail.nn.tokens import Grid
from vitrail.weights.account import Account
from vitrail.weights.names import State, Translated

TRAINING = frozenset({"dropout", "attention_dropout", "drop_path", "patch_drop", "init", "fit"})
"""Fields that say how a model is trained and nothing about its weights."""

Fit = Callable[[State, Any, Any, Account], None]
"""Changes a state in place: from the source's config to the target's; what was done goes into the account."""


Take = Callable[[Translated], Translated]
"""One family's weights out of another's."""


@dataclass(frozen=True)
class Adaptation:
    """How far the weights of one family stretch.

    Attributes:
        from_the_file: fields in which a checkpoint is right and the architecture's name is not.
        adaptable: fields that may differ from the checkpoint's; any other would make its weights meaningless.
        fit: makes the weights fit.
        takes: other families whose weights hold those of this one, and how they are taken out.
    """

    from_the_file: frozenset[str]
    adaptable: frozenset[str]
    fit: Fit
    takes: Mapping[type[ModelConfig], Take] = field(default_factory=dict)


def fit_simple(projection: str, head: Sequence[str]) -> Fit:
    """For families in which only bands and classes may change.

    Args:
        projection: our name of the first convolution's weight.
        head: our names of the classifier's weights.
    """

    def fit(state: State, source: ModelConfig, target: ModelConfig, account: Account) -> None:
        fit_bands(state, projection, source.in_channels, target.in_channels, account)
        if source.num_classes != target.num_classes:
            drop(state, [name for name in head if name in state], account)

    return fit


def simple_adaptation(projection: str, head: Sequence[str] = (), *from_the_file: str) -> Adaptation:
    """An :class:`Adaptation` of :func:`fit_simple`."""
    return Adaptation(
        frozenset({"num_classes", *from_the_file}),
        TRAINING | {"num_classes", "in_channels"},
        fit_simple(projection, head),
    )


def fit_bands(state: State, projection: str, old: int, new: int, account: Account) -> None:
    """The first convolution for another number of bands."""
    if old != new:
        state[projection] = adapt_channels(state[projection], new)
        account.changed[projection] = f"{old} bands to {new}"


def fit_patches(
    state: State, projection: str, old: int | tuple[int, int], new: int | tuple[int, int], account: Account
) -> None:
    """The patch projection for another patch size."""
    if as_pair(old) != as_pair(new):
        state[projection] = resize_patches(state[projection], as_pair(new))
        account.changed[projection] = f"patches of {old} to {new} pixels (pseudo-inverse)"


def fit_table(state: State, table: str, old: Grid, new: Grid, variant: ResizeName, account: Account) -> None:
    """Learned positions for another grid."""
    if old != new:
        state[table] = resize_positions(state[table], old, new, RESIZES[variant])
        grids = ["×".join(map(str, grid)) for grid in (old, new)]
        account.changed[table] = f"grid {grids[0]} resized to {grids[1]} ({variant})"


def drop(state: State, names: Sequence[str], account: Account) -> None:
    """Take weights out that have no sense in the model asked for."""
    for name in names:
        account.drop(name, "the model asked for has another head or pool")
        del state[name]


def adapt_channels(weight: Float[Tensor, "d c *patch"], channels: int) -> Float[Tensor, "d c2 *patch"]:
    """A patch projection for another number of bands.

    One band gets the sum (a grey picture repeated three times gives the same tokens); more bands repeat the old ones,
    scaled so that the expected output stays.
    """
    old = weight.shape[1]
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeated = torch.cat([weight] * -(-channels // old), dim=1)[:, :channels]
    return repeated * (old / channels)


def resize_patches(weight: Float[Tensor, "d c h w"], patch: tuple[int, int]) -> Float[Tensor, "d c h2 w2"]:
    """A patch projection for another patch size.

    The least-squares solution under which resizing the picture changes its tokens least (FlexiViT, Beyer et al. 2023,
    section 3.4): ``(Bᵀ)⁺ w`` with ``B`` the matrix of the resize, here bicubic with antialiasing.
    """
    old = (weight.shape[2], weight.shape[3])
    units = torch.eye(old[0] * old[1], dtype=torch.float64).view(-1, 1, *old)
    resized = F.interpolate(units, patch, mode="bicubic", align_corners=False, antialias=True).flatten(1)
    # ``resized`` is Bᵀ: its rows are the resized unit pictures. It has not full rank where one side grows and the other
    # shrinks, so that singular values which are zero but for rounding must be cut off.
    solution = torch.linalg.pinv(resized, rtol=1e-6)
    return (weight.flatten(2).double() @ solution.T).unflatten(-1, patch).to(weight.dtype)
