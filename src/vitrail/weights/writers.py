"""Who writes which family for which library."""

from __future__ import annotations

from typing import Literal

from vitrail.models import ConvNeXtConfig, DINOv3Config, ModelConfig, ResNetConfig, ViTConfig
from vitrail.weights import write_conv, write_dinov3, write_vit
from vitrail.weights.names import Writer

WRITERS: dict[Literal["timm", "transformers"], dict[type[ModelConfig], Writer]] = {
    "timm": {
        ViTConfig: write_vit.for_timm,
        DINOv3Config: write_dinov3.for_timm,
        ResNetConfig: write_conv.resnet_for_timm,
        ConvNeXtConfig: write_conv.convnext_for_timm,
    },
    "transformers": {ViTConfig: write_vit.for_transformers, DINOv3Config: write_dinov3.for_transformers},
}
