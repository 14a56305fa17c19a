"""Vitrail: data."""
