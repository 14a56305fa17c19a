"""DiT made tiny: for tests that hold for every family."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {"img_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}

TINY: dict[str, dict[str, Any]] = {
    "dit_small_patch2_256": SMALL,
    "dit_base_patch4_256": {**SMALL, "img_size": 16},
    "dit_large_patch8_256": {**SMALL, "img_size": 24},
    "dit_xlarge_patch2_512": {**SMALL, "learn_sigma": False},
}
