"""Who writes which family for which library."""

from __future__ import annotations

from typing import Literal

from vitrail.models import (
    BeitConfig,
    ConvNeXtConfig,
    DetrConfig,
    DINOv3Config,
    DualEncoderConfig,
    ImageTowerConfig,
    MAEConfig,
    ModelConfig,
    ResNetConfig,
    SamConfig,
    SamEncoderConfig,
    SwinConfig,
    VideoConfig,
    VideoMAEConfig,
    ViTConfig,
)
from vitrail.weights import (
    hf_mae,
    hf_videomae,
    mae,
    write_beit,
    write_clip,
    write_conv,
    write_detr,
    write_dinov3,
    write_sam,
    write_swin,
    write_vit,
)
from vitrail.weights.names import Writer

WRITERS: dict[Literal["timm", "transformers"], dict[type[ModelConfig], Writer]] = {
    "timm": {
        ViTConfig: write_vit.for_timm,
        DINOv3Config: write_dinov3.for_timm,
        ResNetConfig: write_conv.resnet_for_timm,
        ConvNeXtConfig: write_conv.convnext_for_timm,
        MAEConfig: mae.for_timm,
        SwinConfig: write_swin.for_timm,
        BeitConfig: write_beit.for_timm,
        SamEncoderConfig: write_sam.for_timm,
        ImageTowerConfig: write_clip.tower_for_timm,
        DualEncoderConfig: write_clip.pair_for_timm,
    },
    "transformers": {
        ViTConfig: write_vit.for_transformers,
        DINOv3Config: write_dinov3.for_transformers,
        MAEConfig: hf_mae.for_transformers,
        VideoConfig: hf_videomae.video_for_transformers,
        VideoMAEConfig: hf_videomae.videomae_for_transformers,
        DetrConfig: write_detr.for_transformers,
        ResNetConfig: write_conv.resnet_for_transformers,
        ConvNeXtConfig: write_conv.convnext_for_transformers,
        SwinConfig: write_swin.for_transformers,
        BeitConfig: write_beit.for_transformers,
        SamEncoderConfig: write_sam.for_transformers,
        SamConfig: write_sam.for_transformers,
        DualEncoderConfig: write_clip.pair_for_transformers,
    },
}
