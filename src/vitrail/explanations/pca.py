"""Patch features as colours: their first three principal components as red, green and blue (DINOv2, figure 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.nn.tokens import Tokens

LOW, HIGH = 0.01, 0.99
"""Quantiles of a component that become 0 and 1: a few outlying patches must not turn all others grey."""


@dataclass(frozen=True)
class PatchBasis:
    """Principal components fitted once; whatever is shown in them has the same signs, the same scale, the same colours.

    Attributes:
        centre: the mean that they are counted from, ``(D,)``.
        directions: unit vectors, the strongest first, ``(components, D)``.
        low, high: scores that become 0 and 1 of a colour, ``(components,)``.
    """

    centre: Float[Tensor, " d"]
    directions: Float[Tensor, "count d"]
    low: Float[Tensor, " count"]
    high: Float[Tensor, " count"]

    def scores(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n count"]:
        """How far every patch lies along each component."""
        return ((features.detach().double().cpu() - self.centre) @ self.directions.T).float()

    def colours(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n count"]:
        """The scores from ``low`` to ``high`` as 0 … 1."""
        return ((self.scores(features) - self.low) / (self.high - self.low).clamp(min=1e-12)).clamp(0, 1)


def fit_basis(features: Float[Tensor, "n d"], count: int = 3, fit_on: Bool[Tensor, " n"] | None = None) -> PatchBasis:
    """The first principal components of patches, computed in float64.

    A principal component has no sign of its own. Here the cubes of its entries sum to more than nothing: its strongest
    channels point up. The rule looks at the direction alone, so that a component that two pictures share gets the same
    sign in both, whatever else stands in them.

    Args:
        features: one row per patch, of one picture or of several that are to share their colours.
        count: components, at most the number of patches and of channels.
        fit_on: patches that the components and their scale are fitted on (the foreground, say); all when None.

    Raises:
        VitrailError: fewer patches than components.
    """
    values = features.detach().double().cpu()
    chosen = values if fit_on is None else values[fit_on.cpu()]
    if min(chosen.shape) < count:
        raise VitrailError(f"{count} components need as many patches and channels, not {tuple(chosen.shape)}")
    centre = chosen.mean(dim=0)
    centred = chosen - centre
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.T.flip(0)[:count]
    directions = directions * torch.where(directions.pow(3).sum(dim=1) < 0, -1.0, 1.0).double()[:, None]
    scores = (centred @ directions.T).float()
    return PatchBasis(centre, directions, scores.quantile(LOW, dim=0), scores.quantile(HIGH, dim=0))


def shared_basis(pictures: Sequence[Tokens]) -> PatchBasis:
    """The components of the patches of several pictures together, whatever their grids.

    Raises:
        VitrailError: no pictures, features of different widths, dropped patches, or fewer patches than components.
    """
    if len({tokens.values.shape[-1] for tokens in pictures}) != 1:
        raise VitrailError("pictures share components when the features of at least one have one width")
    for tokens in pictures:
        _require_whole(tokens)
    return fit_basis(torch.cat([tokens.patches.flatten(0, 1).float().cpu() for tokens in pictures]))


def patch_components(
    features: Float[Tensor, "n d"], count: int = 3, fit_on: Bool[Tensor, " n"] | None = None
) -> Float[Tensor, "n count"]:
    """Scores of every patch on the first principal components: :func:`fit_basis` applied to what it is fitted on."""
    return fit_basis(features, count, fit_on).scores(features)


def patch_colours(
    tokens: Tokens, foreground: Bool[Tensor, "b n"] | None = None, basis: PatchBasis | None = None
) -> Float[Tensor, "b *grid 3"]:
    """Colours in 0 … 1 for every patch; pictures of one batch share their components, so that like parts match.

    Args:
        tokens: features on a whole grid, usually ``model.features(images)``.
        foreground: patches that the components and the scale are fitted on; the others become black.
        basis: components fitted elsewhere (:func:`shared_basis`); fitted on these patches when None.
    """
    _require_whole(tokens)
    shown = None if foreground is None else foreground.flatten().cpu()
    patches = tokens.patches.flatten(0, 1)
    colours = (basis or fit_basis(patches, 3, shown)).colours(patches)
    if shown is not None:
        colours = torch.where(shown[:, None], colours, 0.0)
    return colours.unflatten(0, (tokens.values.shape[0], *tokens.grid))


def _require_whole(tokens: Tokens) -> None:
    if tokens.keep is not None:
        raise VitrailError("patch colours need every patch: these tokens keep only a part of their grid")


def foreground_of(tokens: Tokens) -> Bool[Tensor, "b n"]:
    """The object's patches: one side of the first component, as DINOv2 cuts object from background (section 7.5).

    The paper leaves open which side that is. Here it is the one that is rarer on the rim of the pictures than within.
    """
    scores = patch_components(tokens.patches.flatten(0, 1), 1)[:, 0].unflatten(0, (-1, *tokens.grid))
    positive = scores > 0
    rim = torch.ones(tokens.grid, dtype=torch.bool)
    rim[1:-1, 1:-1] = False
    if rim.all():
        return positive.flatten(1)
    on_rim, within = positive[:, rim].float().mean(), positive[:, ~rim].float().mean()
    return (positive if on_rim <= within else ~positive).flatten(1)
