"""Pictures of what a model looked at: attention, rollout, the evidence for a class, patch features as colours."""

from vitrail.explanations.given import Given, watch
from vitrail.explanations.gradcam import grad_cam
from vitrail.explanations.maps import (
    attention_maps,
    class_maps,
    head_mean,
    patch_mean_maps,
    query_maps,
    rollout,
    rollout_maps,
    upsample_bilinear,
    upsample_nearest,
)
from vitrail.explanations.norms import outlier_limit, outlier_tokens, token_norms
from vitrail.explanations.paint import overlay, picture_of
from vitrail.explanations.pca import PatchBasis, fit_basis, foreground_of, patch_colours, shared_basis
from vitrail.explanations.positions import patch_positions, position_similarity
from vitrail.explanations.reach import LayerReach, attention_distance, attention_entropy, measure_reach
from vitrail.explanations.recall import Recall, remember
from vitrail.explanations.record import AttentionRecord, LayerAttention, every_head, mean_of_heads, record, rows_of
from vitrail.explanations.relevance import grad_rollout_maps, relevance_maps
from vitrail.explanations.similarity import Match, Pair, mutual_matches, patch_similarity, top_patches

__all__ = [
    "AttentionRecord",
    "Given",
    "LayerAttention",
    "LayerReach",
    "Match",
    "Pair",
    "PatchBasis",
    "Recall",
    "attention_distance",
    "attention_entropy",
    "attention_maps",
    "class_maps",
    "every_head",
    "fit_basis",
    "foreground_of",
    "grad_cam",
    "grad_rollout_maps",
    "head_mean",
    "mean_of_heads",
    "measure_reach",
    "mutual_matches",
    "outlier_limit",
    "outlier_tokens",
    "overlay",
    "patch_colours",
    "patch_mean_maps",
    "patch_positions",
    "patch_similarity",
    "picture_of",
    "position_similarity",
    "query_maps",
    "record",
    "relevance_maps",
    "remember",
    "rollout",
    "rollout_maps",
    "rows_of",
    "shared_basis",
    "token_norms",
    "top_patches",
    "upsample_bilinear",
    "upsample_nearest",
    "watch",
]
