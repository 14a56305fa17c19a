"""Weights of a video transformer for other clips, bands or classes, or another pool."""

from __future__ import annotations

from vitrail.models import VideoConfig, VideoMAEConfig
from vitrail.weights.account import Account
from vitrail.weights.adapt import TRAINING, Adaptation
from vitrail.weights.adapt_autoencoder import encoder_alone, note_positions
from vitrail.weights.adapt_plain import fit_plain
from vitrail.weights.names import State


def fit(state: State, source: VideoConfig, target: VideoConfig, account: Account) -> None:
    """Bands, norms and head of ``state`` for ``target``; nothing is stored of positions."""
    fit_plain(state, source, target, account)
    note_positions(source.grid, target.grid, account)


ADAPTATION = Adaptation(
    from_the_file=frozenset({"num_classes", "pool", "pool_norm", "norm_eps", "pool_norm_eps", "mlp_ratio"}),
    adaptable=TRAINING
    | {
        *("num_classes", "in_channels", "img_size", "frames", "pool", "pool_norm", "mask_token"),
        *("norm_eps", "pool_norm_eps"),
    },
    fit=fit,
    takes={VideoMAEConfig: encoder_alone},
)
