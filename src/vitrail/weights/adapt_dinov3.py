"""How far the weights of a DINOv3 stretch: its rotary positions fit every size as they are."""

from __future__ import annotations

from vitrail.weights.adapt import TRAINING, Adaptation
from vitrail.weights.adapt_plain import fit_plain

ADAPTATION = Adaptation(
    from_the_file=frozenset({"num_classes", "qkv_bias", "layer_scale", "pool", "pool_norm", "norm_eps", "rope_base"}),
    adaptable=TRAINING
    | {
        *("img_size", "patch_size", "in_channels", "num_classes", "pool", "pool_norm", "mask_token", "norm_eps"),
        *("rope_shift", "rope_jitter", "rope_rescale"),
    },
    fit=fit_plain,
)
