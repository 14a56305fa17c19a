"""Tokens into answers."""

from vitrail.heads.detect import DetectionHead, Detections, detections
from vitrail.heads.pool import POOLS, AttentionPool, PoolName, pooled_width

__all__ = [
    "POOLS",
    "AttentionPool",
    "DetectionHead",
    "Detections",
    "PoolName",
    "detections",
    "pooled_width",
]
