"""Tokens into answers."""

from vitrail.heads.pool import POOLS, AttentionPool, PoolName, pooled_width

__all__ = ["POOLS", "AttentionPool", "PoolName", "pooled_width"]
