"""Weights of a Vision Transformer for another size, patch, number of bands or classes, or another pool."""

from __future__ import annotations

import torch

from vitrail.models import MAEConfig, ViTConfig
from vitrail.nn.position import sincos_2d
from vitrail.weights.account import Account
from vitrail.weights.adapt import TRAINING, Adaptation, fit_table
from vitrail.weights.adapt_autoencoder import encoder_alone
from vitrail.weights.adapt_plain import fit_plain
from vitrail.weights.files import CheckpointError
from vitrail.weights.names import State


def fit(state: State, source: ViTConfig, target: ViTConfig, account: Account) -> None:
    """Bands, patches, positions and head of ``state`` for ``target``."""
    fit_plain(state, source, target, account)
    _fit_positions(state, source, target, account)


def _fit_positions(state: State, source: ViTConfig, target: ViTConfig, account: Account) -> None:
    if target.positions == "sincos" and source.positions != "sincos":
        prefix = state["pos_embed"].shape[1] - source.grid[0] * source.grid[1]
        table = sincos_2d(target.embed_dim, target.grid, prefix)
        if table.shape != state["pos_embed"].shape or not torch.allclose(table, state["pos_embed"], atol=1e-4):
            raise CheckpointError(f"{account.source}: its positions are learned, not sine-cosine")
    fit_table(state, "pos_embed", source.grid, target.grid, target.pos_resize, account)


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
    takes={MAEConfig: encoder_alone},
)
