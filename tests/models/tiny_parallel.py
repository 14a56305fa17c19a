"""What makes a transformer of parallel blocks tiny."""

from typing import Any

TINY: dict[str, dict[str, Any]] = {
    "vit_parallel_small_patch16_224": {"img_size": 48, "embed_dim": 16, "depth": 2, "num_heads": 2},
}
