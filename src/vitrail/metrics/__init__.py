"""Vitrail: metrics."""
