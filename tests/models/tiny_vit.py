"""Tiny variants for the tests over every family."""

from typing import Any

_SIZE = {"img_size": 32, "embed_dim": 16, "depth": 2, "num_heads": 2}

TINY: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {**_SIZE, "patch_size": 8, "num_classes": 5},
    "deit_tiny_distilled_patch16_224": {**_SIZE, "patch_size": 8, "num_classes": 5},
    "vit_small_patch14_dinov2": {**_SIZE, "img_size": 42},
    "vit_small_patch14_reg4_dinov2": {**_SIZE, "img_size": 42},
    "vit_giant_patch14_dinov2": {**_SIZE, "img_size": 42},
}
