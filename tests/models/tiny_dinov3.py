"""What makes a DINOv3 tiny."""

from typing import Any

TINY: dict[str, dict[str, Any]] = {
    "vit_small_patch16_dinov3": {"img_size": 48, "embed_dim": 16, "depth": 2, "num_heads": 2},
    "vit_small_plus_patch16_dinov3": {"img_size": 48, "embed_dim": 16, "depth": 2, "num_heads": 2},
    "vit_7b_patch16_dinov3": {"img_size": 48, "embed_dim": 16, "depth": 2, "num_heads": 2},
}
