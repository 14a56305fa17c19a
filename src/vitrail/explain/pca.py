"""Patch features as colours: their first three principal components as red, green and blue (DINOv2, figure 1)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.nn.tokens import Tokens

LOW, HIGH = 0.01, 0.99
"""Quantiles of a component that become 0 and 1: a few outlying patches must not turn all others grey."""


def patch_components(
    features: Float[Tensor, "n d"], count: int = 3, fit_on: Bool[Tensor, " n"] | None = None
) -> Float[Tensor, "n count"]:
    """Scores of every patch on the first principal components, computed in float64.

    A principal component has no sign of its own. Here it points to where the scores are skewed: the rarer kind of
    patch is positive, whatever the library, the order of the patches or a little noise.

    Args:
        features: one row per patch, of one picture or of several that are to share their colours.
        count: components, at most the number of patches and of channels.
        fit_on: patches that the components are fitted on (the foreground, say); all when None.

    Raises:
        VitrailError: fewer patches than components.
    """
    values = features.detach().double().cpu()
    chosen = values if fit_on is None else values[fit_on.cpu()]
    if min(chosen.shape) < count:
        raise VitrailError(f"{count} components need as many patches and channels, not {tuple(chosen.shape)}")
    centre = chosen.mean(dim=0)
    _, _, directions = torch.linalg.svd(chosen - centre, full_matrices=False)
    skew = ((chosen - centre) @ directions[:count].T).pow(3).sum(dim=0)
    signs = torch.where(skew < 0, -1.0, 1.0).double()
    return ((values - centre) @ directions[:count].T * signs).to(torch.float32)


def patch_colours(tokens: Tokens, foreground: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b h w 3"]:
    """Colours in 0 … 1 for every patch; pictures of one batch share their components, so that like parts match.

    Args:
        tokens: features on a whole grid, usually ``model.features(images)``.
        foreground: patches that the components and the scale are fitted on; the others become black.
    """
    if tokens.keep is not None:
        raise VitrailError("patch colours need every patch: these tokens keep only a part of their grid")
    shown = None if foreground is None else foreground.flatten().cpu()
    scores = patch_components(tokens.patches.flatten(0, 1), 3, shown)
    fitted = scores if shown is None else scores[shown]
    low, high = fitted.quantile(LOW, dim=0), fitted.quantile(HIGH, dim=0)
    colours = ((scores - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    if shown is not None:
        colours = torch.where(shown[:, None], colours, 0.0)
    return colours.unflatten(0, (tokens.values.shape[0], *tokens.grid))


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
