"""How long tokens are, and which stand out: large models turn some background patches into stores of global facts.

Source: Darcet et al. 2024 ("Vision transformers need registers"), section 2. The norms are those before the final norm,
which would level them: ``model.intermediates(images, (-1,), norm=False)``.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitrail.nn.tokens import Tokens

DEVIATIONS = 8.0
"""Robust standard deviations above the median from which a token counts as an outlier."""
FACTOR = 1.5
"""And how many times the median it must be: where all norms are nearly alike, none stands out."""
TO_DEVIATION = 1.4826
"""The standard deviation of normal values over their median absolute deviation."""


def token_norms(tokens: Tokens) -> Float[Tensor, "b n"]:
    """The Euclidean length of every token, prefix tokens first, float32 on the CPU."""
    return tokens.values.detach().float().norm(dim=-1).cpu()


def outlier_tokens(tokens: Tokens, deviations: float = DEVIATIONS, factor: float = FACTOR) -> Bool[Tensor, "b n"]:
    """Which patches are far longer than the patches of their picture are; prefix tokens never count.

    A patch is an outlier when its norm exceeds :func:`outlier_limit`. The paper draws its line by eye, at 150 for
    DINOv2 ViT-g; this rule needs no number that belongs to one model.
    """
    norms = token_norms(tokens)
    marked = norms > outlier_limit(tokens, deviations, factor)[:, None]
    marked[:, : tokens.prefix] = False
    return marked


def outlier_limit(tokens: Tokens, deviations: float = DEVIATIONS, factor: float = FACTOR) -> Float[Tensor, " b"]:
    """The norm above which a patch stands out, for every picture.

    It is the median of the patches' norms plus ``deviations`` times 1.4826 times their median absolute deviation, and
    at least ``factor`` times the median.
    """
    norms = token_norms(tokens)[:, tokens.prefix :]
    middle = norms.quantile(0.5, dim=1)
    spread = (norms - middle[:, None]).abs().quantile(0.5, dim=1)
    return torch.maximum(middle + deviations * TO_DEVIATION * spread, factor * middle)
