"""What makes a discrete autoencoder tiny."""

from typing import Any

TINY: dict[str, dict[str, Any]] = {
    "dvae_tiny_stride4_28": {"img_size": 8, "vocab_size": 16, "width": 8, "code_dim": 8},
    "dvae_base_stride8_112": {"img_size": 16, "vocab_size": 16, "width": 8, "code_dim": 8, "blocks": 1},
}
