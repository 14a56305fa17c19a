"""SAM made tiny, for tests that go through all models, and its peers of the same size."""

from __future__ import annotations

TINY: dict[str, dict] = {
    "samvit_base_patch16": {
        "img_size": 64,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "window": 3,
        "global_blocks": (1,),
        "neck_dim": 16,
    },
    "sam_vit_base_patch16": {
        "img_size": 64,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "window": 3,
        "global_blocks": (1,),
        "neck_dim": 16,
        "decoder_heads": 2,
        "decoder_mlp_dim": 24,
        "iou_dim": 12,
    },
}
