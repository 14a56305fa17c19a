"""Initialisation as published, one function for each school.

All take a module whose linear and convolution layers are to be filled and touch nothing else; tokens and positions
are initialised where they are made, because only their owner knows what they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from torch import nn

from vitrail.nn.linear import KeylessLinear


def init_trunc_normal(module: nn.Module) -> None:
    """Linear weights from a normal of deviation 0.02 cut at ±2, biases zero: DeiT, DINO, DINOv2, timm."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_jax(module: nn.Module) -> None:
    """The original ViT: Xavier-uniform linear layers, MLP biases of deviation 1e-6, LeCun-normal patch projection."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            # Queries, keys and values are three layers there: each has a fan-out of its own.
            for part in layer.weight.chunk(3) if name.endswith("qkv") else (layer.weight,):
                nn.init.xavier_uniform_(part)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=1e-6) if "mlp" in name else nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv2d):
            _lecun_normal(layer)


def init_mae(module: nn.Module) -> None:
    """MAE: Xavier-uniform everywhere, the patch projection as the linear layer that it is; biases zero.

    VideoMAE has the same, but leaves the projection of its tubelets as PyTorch makes it.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | KeylessLinear):
            nn.init.xavier_uniform_(layer.weight.view(layer.weight.shape[0], -1))
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_scaled(blocks: nn.Module, dim: int, depth: int) -> None:
    """Normal weights scaled with width and depth, biases zero: CLIP's text tower (Radford et al. 2019, section 2.3).

    Args:
        blocks: a stack of them.
        dim: width of a token.
        depth: number of blocks; what ends a residual branch shrinks with it.
    """
    deviations = {"qkv": dim**-0.5, "fc1": (2 * dim) ** -0.5}
    for name, layer in blocks.named_modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=deviations.get(name.split(".")[-1], (2 * depth * dim) ** -0.5))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _lecun_normal(layer: nn.Conv2d) -> None:
    fan_in = layer.weight[0].numel()
    # The cut at two deviations narrows the distribution by this factor; JAX corrects for it.
    std = math.sqrt(1 / fan_in) / 0.87962566103423978
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


InitName = Literal["trunc_normal", "jax", "mae"]
INITS: dict[InitName, Callable[[nn.Module], None]] = {
    "trunc_normal": init_trunc_normal,
    "jax": init_jax,
    "mae": init_mae,
}
