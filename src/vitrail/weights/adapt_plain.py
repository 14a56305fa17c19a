"""What the weights of all plain transformers stretch to: other bands, patches, classes, another pool."""

from __future__ import annotations

from vitrail.models import PlainConfig
from vitrail.weights.account import Account
from vitrail.weights.adapt import drop, fit_bands, fit_patches
from vitrail.weights.names import State

PROJECTION = "patch_embed.proj.weight"


def fit_plain(state: State, source: PlainConfig, target: PlainConfig, account: Account) -> None:
    """Bands, patches and head of ``state`` for ``target``; positions are the family's own."""
    fit_bands(state, PROJECTION, source.in_channels, target.in_channels, account)
    fit_patches(state, PROJECTION, source.patch_size, target.patch_size, account)
    drop(state, _stale(source, target, state), account)


def _stale(source: PlainConfig, target: PlainConfig, state: State) -> list[str]:
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
