"""Who writes which family for which library."""

from __future__ import annotations

from typing import Literal

from vitrail.models import DetrConfig, ModelConfig, ViTConfig
from vitrail.weights import write_detr, write_vit
from vitrail.weights.names import Writer

WRITERS: dict[Literal["timm", "transformers"], dict[type[ModelConfig], Writer]] = {
    "timm": {ViTConfig: write_vit.for_timm},
    "transformers": {
        ViTConfig: write_vit.for_transformers,
        DetrConfig: write_detr.for_transformers,
    },
}
