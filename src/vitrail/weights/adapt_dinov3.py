"""How far the weights of a DINOv3 stretch: its rotary positions fit every size as they are."""

from __future__ import annotations

from vitrail.models import DINOv3Config
from vitrail.nn.rotary import RotaryGrid
from vitrail.weights.account import Account
from vitrail.weights.adapt import TRAINING, Adaptation
from vitrail.weights.adapt_plain import fit_plain
from vitrail.weights.names import State


def fit(state: State, source: DINOv3Config, target: DINOv3Config, account: Account) -> None:
    """Bands, patches and head of ``state`` for ``target``; periods that were computed for heads that were a guess."""
    fit_plain(state, source, target, account)
    if source.num_heads != target.num_heads:
        state["rope.periods"] = RotaryGrid(target.head_dim, target.rope_base).periods


ADAPTATION = Adaptation(
    from_the_file=frozenset({"num_classes", "qkv_bias", "layer_scale", "pool", "pool_norm", "norm_eps", "rope_base"}),
    adaptable=TRAINING
    | {
        *("img_size", "patch_size", "in_channels", "num_classes", "pool", "pool_norm", "mask_token", "norm_eps"),
        *("rope_shift", "rope_jitter", "rope_rescale"),
    },
    fit=fit,
)
