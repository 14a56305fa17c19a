"""Weights of a Vision Transformer for another size, patch, number of bands or classes, or another pool."""

from __future__ import annotations

import torch

from vitrail.models import ViTConfig
from vitrail.nn.embed import as_pair
from vitrail.nn.position import RESIZES, resize_positions, sincos_2d
from vitrail.weights.account import Account
from vitrail.weights.adapt import TRAINING, Adaptation, drop, fit_bands, resize_patches
from vitrail.weights.files import CheckpointError
from vitrail.weights.names import State

PROJECTION = "patch_embed.proj.weight"


def fit(state: State, source: ViTConfig, target: ViTConfig, account: Account) -> None:
    """Bands, patches, positions and head of ``state`` for ``target``."""
    fit_bands(state, PROJECTION, source.in_channels, target.in_channels, account)
    new_patch = as_pair(target.patch_size)
    if as_pair(source.patch_size) != new_patch:
        state[PROJECTION] = resize_patches(state[PROJECTION], new_patch)
        account.changed[PROJECTION] = f"patches of {source.patch_size} to {target.patch_size} pixels (pseudo-inverse)"
    _fit_positions(state, source, target, account)
    drop(state, _stale(source, target, state), account)


def _stale(source: ViTConfig, target: ViTConfig, state: State) -> list[str]:
    """Weights of the found model that have no sense in the one asked for."""
    stale: list[str] = []
    new_pool = source.pool != target.pool
    if target.num_classes != source.num_classes or new_pool:
        stale += ["head.weight", "head.bias", "head_dist.weight", "head_dist.bias"]
    if new_pool and source.pool == "attention":
        stale += [name for name in state if name.startswith("attn_pool.")]
    if new_pool or source.pool_norm != target.pool_norm:
        stale += ["fc_norm.weight", "fc_norm.bias"] if source.pool_norm else []
    if source.pool_norm != target.pool_norm and target.pool_norm:
        stale += ["norm.weight", "norm.bias"]
    if source.mask_token and not target.mask_token:
        stale.append("mask_token")
    return [name for name in stale if name in state]


def _fit_positions(state: State, source: ViTConfig, target: ViTConfig, account: Account) -> None:
    if target.positions == "sincos" and source.positions != "sincos":
        prefix = state["pos_embed"].shape[1] - source.grid[0] * source.grid[1]
        table = sincos_2d(target.embed_dim, target.grid, prefix)
        if table.shape != state["pos_embed"].shape or not torch.allclose(table, state["pos_embed"], atol=1e-4):
            raise CheckpointError(f"{account.source}: its positions are learned, not sine-cosine")
    if source.grid == target.grid:
        return
    variant = RESIZES[target.pos_resize]
    state["pos_embed"] = resize_positions(state["pos_embed"], source.grid, target.grid, variant)
    old, new = ("×".join(map(str, grid)) for grid in (source.grid, target.grid))
    account.changed["pos_embed"] = f"grid {old} resized to {new} ({target.pos_resize})"


ADAPTATION = Adaptation(
    from_the_file=frozenset(
        {
            *("num_classes", "qkv_bias", "qk_norm", "layer_scale", "class_position", "pos_resize", "pool"),
            *("pool_norm", "norm_eps", "mlp_ratio"),
        }
    ),
    adaptable=TRAINING
    | {
        *("img_size", "patch_size", "in_channels", "num_classes", "pool", "pool_norm", "mask_token", "positions"),
        *("pos_resize", "norm_eps"),
    },
    fit=fit,
)
