"""Pictures of what a model looked at: attention of any token, layer and head, rollout, patch features as colours."""

from vitrail.explain.maps import (
    attention_maps,
    class_maps,
    head_max,
    head_mean,
    patch_mean_maps,
    query_maps,
    rollout,
    rollout_maps,
    upsample_bilinear,
    upsample_nearest,
)
from vitrail.explain.paint import overlay, picture_of
from vitrail.explain.pca import foreground_of, patch_colours
from vitrail.explain.record import AttentionRecord, LayerAttention, every_head, mean_of_heads, record

__all__ = [
    "AttentionRecord",
    "LayerAttention",
    "attention_maps",
    "class_maps",
    "every_head",
    "foreground_of",
    "head_max",
    "head_mean",
    "mean_of_heads",
    "overlay",
    "patch_colours",
    "patch_mean_maps",
    "picture_of",
    "query_maps",
    "record",
    "rollout",
    "rollout_maps",
    "upsample_bilinear",
    "upsample_nearest",
]
