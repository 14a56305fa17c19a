"""Tokens into answers."""

from vitrail.heads.detect import DetectionHead, Detections, detections
from vitrail.heads.mask import MaskDecoder
from vitrail.heads.pool import POOLS, AttentionPool, PoolName, pooled_width
from vitrail.heads.projection import ProjectionHead
from vitrail.heads.prompt import PromptEncoder

__all__ = [
    "POOLS",
    "AttentionPool",
    "DetectionHead",
    "Detections",
    "MaskDecoder",
    "PoolName",
    "ProjectionHead",
    "PromptEncoder",
    "detections",
    "pooled_width",
]
