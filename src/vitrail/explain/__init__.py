"""Pictures of what a model looked at: attention, rollout, the evidence for a class, patch features as colours."""

from vitrail.explain.given import Given, watch
from vitrail.explain.gradcam import grad_cam
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
from vitrail.explain.record import AttentionRecord, LayerAttention, every_head, mean_of_heads, record, rows_of
from vitrail.explain.relevance import grad_rollout_maps, relevance_maps

__all__ = [
    "AttentionRecord",
    "Given",
    "LayerAttention",
    "attention_maps",
    "class_maps",
    "every_head",
    "foreground_of",
    "grad_cam",
    "grad_rollout_maps",
    "head_max",
    "head_mean",
    "mean_of_heads",
    "overlay",
    "patch_colours",
    "patch_mean_maps",
    "picture_of",
    "query_maps",
    "record",
    "relevance_maps",
    "rollout",
    "rollout_maps",
    "rows_of",
    "upsample_bilinear",
    "upsample_nearest",
    "watch",
]
