"""Vitrail: engine."""
