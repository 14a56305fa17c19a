"""Weights with tables of distances for another size or window, number of bands or classes."""

from __future__ import annotations

from collections.abc import Iterable

from vitrail.models import BeitConfig, SwinConfig
from vitrail.nn.relative import BIAS_RESIZES, BiasResizeName, resize_bias
from vitrail.nn.tokens import Grid
from vitrail.weights.account import Account
from vitrail.weights.adapt import TRAINING, Adaptation, fit_simple
from vitrail.weights.adapt_plain import fit_plain
from vitrail.weights.beit import OUR_TABLE, SHARED_TABLE
from vitrail.weights.files import CheckpointError
from vitrail.weights.names import State

TABLE = "relative_position_bias_table"


def _fit_tables(
    state: State, names: Iterable[str], old: Grid, new: Grid, variant: BiasResizeName, account: Account
) -> None:
    if old == new:
        return
    before, after = ("×".join(map(str, grid)) for grid in (old, new))
    for name in names:
        state[name] = resize_bias(state[name], old, new, BIAS_RESIZES[variant])
        account.changed[name] = f"distances on {before} patches resized to {after} ({variant})"


def fit_swin(state: State, source: SwinConfig, target: SwinConfig, account: Account) -> None:
    """Bands, windows and head of ``state`` for ``target``."""
    fit_simple("patch_embed.proj.weight", ("head.weight", "head.bias"))(state, source, target, account)
    for stage, (old, new) in enumerate(zip(source.windows, target.windows, strict=True)):
        names = [name for name in state if name.startswith(f"layers.{stage}.") and name.endswith(TABLE)]
        _fit_tables(state, names, old, new, target.bias_resize, account)


def fit_beit(state: State, source: BeitConfig, target: BeitConfig, account: Account) -> None:
    """Bands, patches, distances and head of ``state`` for ``target``; a shared table goes to every layer."""
    fit_plain(state, source, target, account)
    if target.shared_bias and not source.shared_bias:
        raise CheckpointError(f"{account.source}: one table of distances for each layer cannot become one for all")
    if source.shared_bias and not target.shared_bias:
        shared = state.pop(SHARED_TABLE)
        for i in range(source.depth):
            state[f"blocks.{i}.{OUR_TABLE}"] = shared.clone()
            account.changed[f"blocks.{i}.{OUR_TABLE}"] = "the table that all layers shared"
    names = [name for name in state if name.endswith(TABLE)]
    _fit_tables(state, names, source.grid, target.grid, target.bias_resize, account)


SWIN = Adaptation(
    from_the_file=frozenset({"num_classes", "qkv_bias", "mlp_ratio", "bias_resize", "norm_eps"}),
    adaptable=TRAINING | {"img_size", "in_channels", "num_classes", "window_size", "bias_resize", "norm_eps"},
    fit=fit_swin,
)
BEIT = Adaptation(
    from_the_file=frozenset(
        {"num_classes", "layer_scale", "mlp_ratio", "pool", "pool_norm", "bias_resize", "norm_eps"}
    ),
    adaptable=TRAINING
    | {
        *("img_size", "patch_size", "in_channels", "num_classes", "pool", "pool_norm", "mask_token", "shared_bias"),
        *("bias_resize", "norm_eps"),
    },
    fit=fit_beit,
)
