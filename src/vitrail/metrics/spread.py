"""How much of their space features use: what falls first when training without labels collapses."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

TINY = 1e-7
"""Added to every share, as RankMe does: the logarithm of nothing is not a number."""


def effective_rank(features: Float[Tensor, "n d"]) -> float:
    """RankMe: ``exp`` of the entropy of the singular values' shares (Garrido et al. 2023, section 3, equation 1).

    From 1 (all features on one line) to ``min(n, d)`` (no direction preferred). The features are taken as they are,
    not centred.
    """
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp_min(TINY) + TINY
    return math.exp(float(-(shares * shares.log()).sum()))


def feature_deviation(features: Float[Tensor, "n d"]) -> float:
    """Deviation over the pictures of features of length one, times the root of their width.

    0 when all pictures have the same feature, 1 when features point everywhere alike (SimSiam, Chen and He 2021,
    section 4.1).
    """
    deviation = F.normalize(features.double(), dim=1).std(dim=0, correction=0).mean()
    return float(deviation) * math.sqrt(features.shape[1])
