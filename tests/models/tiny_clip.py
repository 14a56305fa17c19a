"""Overrides that make the named image towers and pairs tiny."""

from typing import Any

TOWER: dict[str, Any] = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
TEXT: dict[str, Any] = {"text_dim": 12, "text_depth": 1, "text_heads": 2, "vocab_size": 40, "context_length": 7}
CLIP: dict[str, Any] = {**TOWER, **TEXT, "img_size": 24, "joint_dim": 10, "end_token": 39, "pad_token": 0}
SIGLIP: dict[str, Any] = {**TOWER, **TEXT, "img_size": 24, "joint_dim": 16}

TINY: dict[str, dict[str, Any]] = {
    "vit_base_patch16_clip_224": {**TOWER, "img_size": 24, "num_classes": 5},
    "vit_so400m_patch14_siglip_384": {**TOWER, "img_size": 27, "num_classes": 5},
    "clip_vit_base_patch32_224": CLIP,
    "siglip_vit_base_patch16_224": SIGLIP,
}
