"""Representative masked autoencoders and video transformers, and what makes them tiny."""

from __future__ import annotations

ENCODER = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
DECODER = {"decoder_embed_dim": 8, "decoder_depth": 1, "decoder_num_heads": 2}

TINY: dict[str, dict] = {
    "mae_vit_base_patch16_224": {**ENCODER, **DECODER},
    "videomae_base_patch16_224": {**ENCODER, "frames": 4, "num_classes": 5},
    "pretrain_videomae_base_patch16_224": {**ENCODER, **DECODER, "frames": 4},
}
