"""Vitrail: models."""
