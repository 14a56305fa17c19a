"""BEiT made tiny: a grid of 3 × 3, with a table for each layer and with one for all."""

from __future__ import annotations

TINY: dict[str, dict] = {
    "beit_base_patch16_224": {"img_size": 48, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5},
    "beit_large_patch16_224": {
        "img_size": 48,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 4,
        "num_classes": 5,
        "shared_bias": True,
        "mask_token": True,
    },
}
