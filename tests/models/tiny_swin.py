"""Swin made tiny, with four stages whose grids at 56 pixels are 14, 7, 4 and 2 patches wide."""

from __future__ import annotations

TINY: dict[str, dict] = {
    "swin_tiny_patch4_window7_224": {
        "img_size": 56,
        "embed_dim": 16,
        "depths": (2, 2, 2, 2),
        "num_heads": (1, 2, 2, 4),
        "num_classes": 5,
    },
}
