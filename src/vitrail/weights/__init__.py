"""Vitrail: weights."""
