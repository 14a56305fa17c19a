"""Non-linearities by name: three forms of the GELU, which differ in the third decimal and must not be mixed up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn


class QuickGELU(nn.Module):
    """``x · sigmoid(1.702 x)``, the sigmoid approximation of the GELU (Hendrycks & Gimpel 2016, section 2)."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Each number by itself."""
        return x * torch.sigmoid(1.702 * x)


ActivationName = Literal["gelu", "gelu_tanh", "quick_gelu"]
ACTIVATIONS: dict[ActivationName, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "quick_gelu": QuickGELU,
}
"""The exact GELU, its tanh approximation (the default of JAX), its sigmoid approximation."""
